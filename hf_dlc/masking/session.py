"""Sessions in which the weights of a model are masked: one at a time, and every weight comes back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hf_dlc.errors import DLCError
from hf_dlc.utils.memory import bytes_by_device, free_memory

from .levels import HeldLevels, LevelReport, TargetMasks, checked_fractions, plain_writes
from .masks import count_zeros
from .targets import Target, unwrap


_CERTAIN = 32  # a level that should mask this many weights and masks none did not reach the tensors

# One session at a time for a model, whichever masker opens it.
_LOCKS: WeakKeyDictionary[nn.Module, _SessionLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


class MaskingSession:
    """
    Sets the masked fraction of the weights, within [`Masker.session`].

    Masks are nested, so that a larger fraction is put over a smaller one in place. One copy of the maskable weights is
    taken when the first of them is masked: on their device if it leaves half of the free memory, else on the host.

    Args:
        masks (`TargetMasks`):
            Targets, and what is zero in them at a masked fraction.
        fractions (`tuple[float, ...]`):
            Masked fractions of the levels.
        held (`HeldLevels`, *optional*):
            Masked weights of these levels.

    Attributes:
        report (`list[LevelReport]`):
            Levels set so far, in the order of the levels.
    """

    def __init__(self, masks: TargetMasks, fractions: tuple[float, ...], held: HeldLevels | None = None) -> None:
        self.fractions = fractions
        self.report: list[LevelReport] = []
        self._masks = masks
        self._held = held
        self._is_open = True
        self._own: list[torch.Tensor] | None = None  # tensors of the model, once held ones have taken their places
        self._backup: list[torch.Tensor] | None = None  # copy of the unmasked weights
        self._fraction: float | None = 0.0  # what is masked in place; `None` while that is uncertain

    def set_level(self, level: int) -> LevelReport:
        """
        Mask the weights as the level of the schedule says.

        Args:
            level (`int`):
                Index of the level. Ascending levels are cheapest; any order is allowed.

        Returns:
            [`LevelReport`]: Counts of this level; they are in `report` too.

        Raises:
            ValueError: If there is no such level.
            RuntimeError: If weights should have been masked and none was, or if the session is over.
        """
        if not 0 <= level < len(self.fractions):
            raise ValueError(f"`level` must be in [0, {len(self.fractions)}), got {level}.")
        if self._held is not None:
            self._swap(level)
            zeros = self._held.zeros[level]
        else:
            self.set_fraction(self.fractions[level])
            zeros = sum(map(count_zeros, self._masks.present))
        report = self._masks.report(level, self.fractions[level], zeros, self._originals())
        self._add(report)
        return report

    @plain_writes()
    def set_fraction(self, fraction: float) -> None:
        """
        Mask a share of the weights that need not be in the schedule, as calibration does.

        Args:
            fraction (`float`):
                Masked fraction in [0, 1). A larger one than before is cheapest; any order is allowed.

        Raises:
            ValueError: If `fraction` is out of range.
            RuntimeError: If the session is over.
        """
        checked_fractions([fraction])
        self._check_open()
        self._swap_back()
        if self._fraction is None or fraction < self._fraction:
            self._copy_back()
        if fraction == self._fraction:
            return
        originals = self._originals()
        self._masks.find_thresholds(self.fractions if fraction in self.fractions else [fraction], originals)
        if self._backup is None:
            self._backup = _backup_of(originals)
        self._fraction = None
        self._masks.mask(self._masks.present, fraction)
        self._fraction = fraction

    def close(self) -> None:
        """Restore every weight, bit for bit; nothing can be masked afterwards. Calling it again does nothing."""
        with _deferred_interrupt(), plain_writes():
            self._is_open = False
            self._unmask()
            self._backup = None

    def _unmask(self) -> None:
        self._swap_back()
        if self._fraction != 0:
            self._copy_back()

    def _originals(self) -> list[torch.Tensor]:
        """The unmasked weights, wherever they are."""
        if self._own is not None:
            return self._own
        return self._masks.present if self._backup is None else self._backup

    def _copy_back(self) -> None:
        if self._backup is not None:
            for target, tensor in zip(self._masks.targets, self._backup, strict=True):
                target.parameter.data.copy_(tensor)  # `data`: the version counter tells whether the user trained
        self._fraction = 0.0

    @plain_writes()
    def _swap(self, level: int) -> None:
        """Put the held tensors of a level in the places of the model's own."""
        self._check_open()
        self._unmask()
        if self.fractions[level] > 0:
            self._own = self._masks.present
            _place(self._masks.targets, [stack[level] for stack in self._held.stacks])

    def _swap_back(self) -> None:
        if self._own is not None:
            _place(self._masks.targets, self._own)
            self._own = None

    def _add(self, report: LevelReport) -> None:
        expected = self._masks.expected(report)
        if expected >= _CERTAIN and report.masked == 0:
            raise DLCError(
                f"Level {report.level} should have set about {expected:.0f} weights to zero and set none: the model "
                "does not keep what is written into its weights. Load it again as plain tensors."
            )
        kept = [other for other in self.report if other.level != report.level]
        self.report[:] = sorted([*kept, report], key=lambda other: other.level)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("The masking session is over. Open a new one with `masker.session(...)`.")


def _backup_of(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies, each on the device of its original unless that would take more than half of what is free there."""
    has_room = {device: size <= free_memory(device) / 2 for device, size in bytes_by_device(tensors).items()}
    return [tensor.clone() if has_room[tensor.device] else tensor.to("cpu", copy=True) for tensor in tensors]


def _place(targets: Sequence[Target], tensors: Sequence[torch.Tensor]) -> None:
    for target, tensor in zip(targets, tensors, strict=True):
        for parameter in (target.parameter, *target.aliases):
            parameter.data = tensor


class _SessionLock:
    """A lock that knows which thread holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner: int | None = None


@contextmanager
def only_session(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread masks the model; refuse to wait for this thread itself."""
    with _LOCKS_GUARD:
        lock = _LOCKS.setdefault(unwrap(model), _SessionLock())
    if lock.owner == threading.get_ident():
        raise RuntimeError("The model is masked already: a masking session must end before the next one begins.")
    with lock.lock:
        lock.owner = threading.get_ident()
        try:
            yield
        finally:
            lock.owner = None


@contextmanager
def _deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block. Signals reach the main thread only."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:  # `None`: set outside of Python
        yield
        return
    received = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: received.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received.is_set():
            signal.raise_signal(signal.SIGINT)
