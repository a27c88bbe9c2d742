"""The other processes of a job: whether they are alive, so that none waits for one that will never come."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from accelerate import PartialState
from torch.distributed import DistStoreError, TCPStore

from .processes import PeerError


logger = logging.getLogger(__name__)

_BEAT_SECONDS = 5.0
_DEAD_AFTER_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_STORE_TIMEOUT = timedelta(seconds=30)

_jobs = itertools.count()  # all processes score the same datasets in the same order, so they count alike


class Peers:
    """
    Tells the other processes that this one is alive, and this one when another is not.

    A launcher ends the processes of its own machine when one of them fails; those of other machines would go on, and
    then wait for it without end.

    Args:
        state ([`~accelerate.PartialState`]):
            State of this process.
        store ([`~torch.distributed.TCPStore`]):
            The store of the job's rendezvous, through a connection of our own.
    """

    def __init__(self, state: PartialState, store: TCPStore) -> None:
        self._me, self._others = (
            state.process_index,
            [i for i in range(state.num_processes) if i != state.process_index],
        )
        self._all = range(state.num_processes)
        self._store = store
        # The store outlives a launcher's restarts, and what was said in an earlier attempt must not be heard in this.
        run, attempt = (os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
        self._job = f"hf_dlc/{run}/{attempt}/{next(_jobs)}"
        self._meetings = itertools.count()
        self._problem: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hf_dlc-peers", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """
        Costs nothing, so that it may be called often.

        Raises:
            PeerError: If another process has failed or is gone.
        """
        if self._problem is not None:
            raise PeerError(self._problem)

    def meet(self) -> None:
        """
        Wait until all processes are here. Unlike a collective operation this has no time limit, and it ends when one
        of them fails.

        Raises:
            PeerError: If another process has failed or is gone.
        """
        place = f"{self._job}/meeting/{next(self._meetings)}"
        try:
            self._store.set(f"{place}/{self._me}", "")
            while not self._store.check([f"{place}/{rank}" for rank in self._all]):
                self.check()
                time.sleep(_LOOK_SECONDS)
        except DistStoreError as error:
            raise PeerError(_lost(error)) from error

    def tell_failure(self, error: BaseException) -> None:
        """Let the other processes know why this one ends."""
        with suppress(DistStoreError, RuntimeError):  # the store may be gone; the launcher shows the error anyway
            message = f"process {self._me} failed: {type(error).__name__}: {error}"[:500]
            self._store.set(f"{self._job}/failed", message.encode("utf-8", "replace").decode())

    def close(self) -> None:
        """Tell the other processes that this one leaves, and stop watching them."""
        with suppress(DistStoreError, RuntimeError):
            self._store.set(f"{self._job}/left/{self._me}", "")
        self._over.set()
        self._thread.join(timeout=_BEAT_SECONDS)  # it may be waiting for a machine that is gone

    def _watch(self) -> None:
        seen = {rank: ("", time.monotonic()) for rank in self._all if rank != self._me}
        for beat in itertools.count():
            try:
                self._store.set(f"{self._job}/beat/{self._me}", str(beat))
                self._problem = self._failure() or self._silence(seen)
            except (DistStoreError, RuntimeError) as error:
                self._problem = _lost(error)
            if self._problem is not None or self._over.wait(_BEAT_SECONDS):
                return

    def _failure(self) -> str | None:
        key = f"{self._job}/failed"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _silence(self, seen: dict[int, tuple[str, float]]) -> str | None:
        """Who has not been heard of for too long, by this process's own clock."""
        now = time.monotonic()
        for rank, (last, since) in seen.items():
            if self._store.check([f"{self._job}/left/{rank}"]):
                continue
            key = f"{self._job}/beat/{rank}"
            beat = self._store.get(key).decode() if self._store.check([key]) else ""
            if beat != last:
                seen[rank] = beat, now
            elif now - since > _DEAD_AFTER_SECONDS:
                return f"process {rank} was not heard of for {now - since:.0f} s: it, or its machine, is gone"
        return None


def _lost(error: Exception) -> str:
    return f"the connection to the launcher is lost ({error})"


@contextmanager
def watch_peers(state: PartialState) -> Iterator[Peers | None]:
    """
    Watch the other processes for the time of a run; `None` where there are none.

    Yields:
        [`Peers`] or `None`
    """
    if state.num_processes == 1 or "MASTER_PORT" not in os.environ:
        yield None
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    peers = Peers(state, TCPStore(address, port, is_master=False, timeout=_STORE_TIMEOUT))
    try:
        yield peers
    except BaseException as error:
        if not isinstance(error, PeerError):
            peers.tell_failure(error)
        raise
    finally:
        peers.close()
