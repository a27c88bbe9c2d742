"""Whether the other processes are alive: with a real store on loopback, each process a thread of this one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore

from hf_dlc.execution import peers as peers_module
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.execution.processes import PeerError


BEAT, DEAD_AFTER = 0.05, 1.0
PATIENCE = 30.0  # of a busy machine

Join = Callable[..., Peers]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "_BEAT_SECONDS", BEAT)
    monkeypatch.setattr(peers_module, "_DEAD_AFTER_SECONDS", DEAD_AFTER)


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


def state_of(rank: int, processes: int) -> SimpleNamespace:
    return SimpleNamespace(process_index=rank, num_processes=processes)


@pytest.fixture
def join(server: TCPStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Join]:
    """`join(rank, processes)`: that process of one and the same job."""
    joined: list[Peers] = []

    def make(rank: int, processes: int = 2, port: int | None = None, job: int = 0) -> Peers:
        store = TCPStore("127.0.0.1", port or server.port, is_master=False, timeout=timedelta(seconds=5))
        with monkeypatch.context() as patch:
            patch.setattr(peers_module, "_jobs", iter([job]))  # as if each were a Python of its own
            joined.append(Peers(state_of(rank, processes), store))
        return joined[-1]

    yield make
    for peers in joined:
        peers.close()


def problem_of(peers: Peers) -> str:
    """What `check` comes to say."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            peers.check()
        except PeerError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("nothing was noticed")


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


class TestWatching:
    def test_those_that_are_alive_are_no_problem(self, join: Join) -> None:
        three = [join(rank, 3) for rank in range(3)]
        time.sleep(2 * DEAD_AFTER)
        for peers in three:
            peers.check()

    def test_a_failure_is_told_to_all(self, join: Join) -> None:
        one, two, three = (join(rank, 3) for rank in range(3))
        two.tell_failure(KeyError("no such column"))
        expected = "process 1 failed: KeyError: 'no such column'"
        assert problem_of(one) == problem_of(three) == expected
        with pytest.raises(PeerError):  # and again
            one.check()

    def test_a_failure_is_noticed_long_before_a_silence(self, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers_module, "_DEAD_AFTER_SECONDS", 3600)
        one, two = join(0), join(1)
        two.tell_failure(ValueError("x"))
        two.close()
        assert "ValueError: x" in problem_of(one)

    def test_a_long_message_is_cut(self, join: Join) -> None:
        one, two = join(0), join(1)
        two.tell_failure(ValueError("long " * 1000))
        assert 400 < len(problem_of(one)) < 600

    @pytest.mark.parametrize("silent", [0, 1])
    def test_a_silence(self, join: Join, silent: int) -> None:
        both = [join(0), join(1)]
        time.sleep(4 * BEAT)
        both[silent]._over.set()  # as a process that was killed: no word, no beat
        message = problem_of(both[1 - silent])
        assert f"process {silent} was not heard of for" in message
        assert "gone" in message

    def test_one_that_never_came(self, join: Join) -> None:
        assert "process 1 was not heard of" in problem_of(join(0))

    def test_a_silence_shorter_than_that_is_none(self, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers_module, "_DEAD_AFTER_SECONDS", 3600)
        one = join(0)
        time.sleep(10 * BEAT)
        one.check()

    def test_only_the_silent_one_is_named(self, join: Join) -> None:
        one, _, three = (join(rank, 3) for rank in range(3))
        three._over.set()
        assert "process 2" in problem_of(one)

    def test_one_that_has_finished_is_not_silent(self, join: Join) -> None:
        one, two = join(0), join(1)
        with pytest.raises(PeerError, match="process 0 failed"):
            _wait_while(two, lambda: one.tell_failure(OSError("disk")))
        three, four = join(0, job=1), join(1, job=1)
        waiting = in_background(lambda: _quietly(four.meet))
        _until(lambda: four._store.check([f"{four._job}/meeting/0/1"]))
        four.close()
        time.sleep(2 * DEAD_AFTER)
        three.check()
        three.meet()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()

    def test_the_store_is_gone(self, join: Join) -> None:
        code = (
            "import sys, time\nfrom torch.distributed import TCPStore\n"
            "store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\n"
            "print(store.port, flush=True)\ntime.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
            one = join(1, port=int(server.stdout.readline()))
            one.check()
            server.kill()
        assert "the connection to the launcher is lost" in problem_of(one)
        one.tell_failure(ValueError("x"))  # to nobody, which is no error of its own

    def test_jobs_do_not_mix(self, join: Join) -> None:
        """A second run in the same processes: what was told in the first one is over."""
        first = [join(0), join(1)]
        first[1].tell_failure(ValueError("x"))
        problem_of(first[0])
        second = [join(0, job=1), join(1, job=1)]
        time.sleep(4 * BEAT)
        for peers in second:
            peers.check()

    def test_closing_ends_the_thread_at_once(self, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers_module, "_BEAT_SECONDS", 3600)
        one = join(0)
        assert one._thread.is_alive()
        assert one._thread.daemon  # nor does it keep a process that ends without a word
        one.close()
        assert not one._thread.is_alive()


def _until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def _quietly(function: Callable[[], None]) -> None:
    try:
        function()
    except PeerError:
        return


def _wait_while(peers: Peers, happens: Callable[[], None]) -> None:
    """Wait for all, in the midst of which something happens; raises what waiting raises."""
    errors: list[PeerError] = []

    def wait() -> None:
        try:
            peers.meet()
        except PeerError as error:
            errors.append(error)

    thread = in_background(wait)
    time.sleep(0.3)
    happens()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in errors:
        raise error


class TestWaiting:
    def test_until_all_are_there(self, join: Join) -> None:
        one, two, three = (join(rank, 3) for rank in range(3))
        threads = [in_background(one.meet), in_background(two.meet)]
        time.sleep(0.5)
        assert all(thread.is_alive() for thread in threads)
        three.meet()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def test_one_fails(self, join: Join) -> None:
        one, two = join(0), join(1)
        with pytest.raises(PeerError, match="process 1 failed: MemoryError: none left"):
            _wait_while(one, lambda: two.tell_failure(MemoryError("none left")))

    def test_one_is_killed(self, join: Join) -> None:
        one, two = join(0), join(1)
        with pytest.raises(PeerError, match="process 1 was not heard of"):
            _wait_while(one, two._over.set)  # it says nothing any more, not even that it leaves

    def test_longer_than_any_silence(self, join: Join) -> None:
        """One that has much more to do than the others is waited for as long as it takes."""
        one, two = join(0), join(1)
        thread = in_background(one.meet)
        time.sleep(2 * DEAD_AFTER)
        assert thread.is_alive()
        two.check()
        two.meet()
        thread.join(PATIENCE)
        assert not thread.is_alive()


class TestContext:
    @pytest.fixture
    def _environment(self, server: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(server.port))
        monkeypatch.setattr(peers_module, "_jobs", iter([0, 1, 2]))

    @pytest.mark.usefixtures("_environment")
    def test_one_process_has_none(self) -> None:
        with watch_peers(state_of(0, 1)) as peers:
            assert peers is None

    def test_nor_have_processes_without_a_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MASTER_PORT", raising=False)
        with watch_peers(state_of(0, 2)) as peers:
            assert peers is None

    @pytest.mark.usefixtures("_environment")
    def test_it_ends_with_the_run(self) -> None:
        with watch_peers(state_of(0, 2)) as peers:
            assert peers._thread.is_alive()
        assert not peers._thread.is_alive()

    @pytest.mark.usefixtures("_environment")
    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
    def test_what_ends_the_run_is_told(self, join: Join, error: BaseException) -> None:
        other = join(1)
        with pytest.raises(type(error)), watch_peers(state_of(0, 2)) as peers:
            raise error
        assert problem_of(other) == f"process 0 failed: {type(error).__name__}: {error}"
        assert not peers._thread.is_alive()

    @pytest.mark.usefixtures("_environment")
    def test_the_error_of_another_is_not_told_as_ones_own(self, join: Join) -> None:
        """Else the last to notice would hear of a process that is as well as itself."""
        third = join(2, 3)
        third.tell_failure(ValueError("mine"))
        with pytest.raises(PeerError), watch_peers(state_of(0, 3)) as peers:
            peers.meet()
        assert peers._failure() == "process 2 failed: ValueError: mine"
