"""Masks the weights of a model in place, level by level, and restores them bit for bit."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hf_dlc.errors import DLCError
from hf_dlc.utils.memory import free_memory

from .masks import Threshold, WeightMatrix, count_zeros, magnitude_mask_, magnitude_thresholds, random_mask_
from .side_by_side import WatchedReads, plain_layers, stacked_forward
from .targets import Target, check_maskable, find_targets, unwrap


logger = logging.getLogger(__name__)

Masking = Literal["random", "magnitude"]
Scope = Literal["module", "global"]

_CERTAIN = 32  # a level that should mask this many weights and masks none did not reach the tensors
_SAMPLES = 8  # weights of each target that are looked at to notice a change

# One session at a time for a model, whichever masker opens it.
_LOCKS: WeakKeyDictionary[nn.Module, _SessionLock] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@dataclass(frozen=True)
class LevelReport:
    """
    What a level did to the weights, counted from the tensors.

    Args:
        level (`int`):
            Index of the level in the schedule.
        masked_fraction (`float`):
            Share of the maskable weights that the level was asked to set to zero.
        maskable (`int`):
            Number of weights that could be masked.
        masked (`int`):
            Number of weights that are zero at this level and were not before.
        zeros_before (`int`):
            Number of maskable weights that are zero without masking.
    """

    level: int
    masked_fraction: float
    maskable: int
    masked: int
    zeros_before: int


@dataclass(frozen=True)
class _HeldLevels:
    """Weights of all targets at each level of a schedule, and their zeros."""

    fractions: tuple[float, ...]
    stacks: list[torch.Tensor]  # for each target, of shape (levels, *shape of the target)
    zeros: list[int]


@contextmanager
def _plain_writes() -> Iterator[None]:
    """Write into weights without a trace in autograd, also when the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class Masker:
    """
    Sets shares of a model's weights to zero and restores them.

    The idea of scoring rows by a model under masked weights is that of Jiang et al., "Exploring Learning Complexity
    for Efficient Downstream Dataset Pruning", ICLR 2025.

    Args:
        model (`torch.nn.Module`):
            Model with plain floating-point weights in memory, on one device or several.
        masking (`str`, *optional*, defaults to `"random"`):
            `"random"` or `"magnitude"` (smallest weights first).
        seed (`int`, *optional*, defaults to 0):
            Seed of the random masks, and of the order of weights of the same magnitude.
        scope (`str`, *optional*, defaults to `"module"`):
            What has one threshold of magnitude: `"module"`, each weight matrix (each expert of a mixture is one), or
            `"global"`, the whole model. Random masks are the same in both.
        target_modules (`str` or `Sequence[str]`, *optional*, defaults to `"all-linear"`):
            Which weights are masked, see [`find_targets`].

    Attributes:
        targets (`list[Target]`):
            Parameters that are masked.
        report (`list[LevelReport]`):
            Levels of the latest session, in the order of the levels.

    Raises:
        UnmaskableModelError: If the weights are quantised, offloaded, sharded or wrapped in adapters.
        ValueError: If `masking` or `scope` is unknown, or `target_modules` matches no weight.

    Example:
    ```python
    >>> import torch
    >>> model = torch.nn.Linear(64, 64, bias=False)
    >>> masker = Masker(model, masking="magnitude")
    >>> with masker.session((0.0, 0.25, 0.5)) as session:
    ...     for level in range(3):
    ...         report = session.set_level(level)
    >>> report
    LevelReport(level=2, masked_fraction=0.5, maskable=4096, masked=2048, zeros_before=0)
    >>> int((model.weight == 0).sum())
    0
    >>> [level.masked for level in masker.report]
    [0, 1024, 2048]
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        masking: Masking = "random",
        seed: int = 0,
        scope: Scope = "module",
        target_modules: str | Sequence[str] = "all-linear",
    ) -> None:
        _check_choice("masking", masking, get_args(Masking))
        _check_choice("scope", scope, get_args(Scope))
        check_maskable(model)
        self.model = model
        self.masking = masking
        self.seed = seed
        self.scope = scope
        self.target_modules = target_modules
        self.targets: list[Target] = find_targets(model, target_modules)
        self.report: list[LevelReport] = []
        self._weights_state: object = None  # of the weights that the next three belong to
        self._held: _HeldLevels | None = None
        self._thresholds: dict[float, list[Threshold]] = {}  # by masked fraction, one for each matrix
        self._zeros_before: int | None = None

    @property
    def maskable(self) -> int:
        """Number of weights that can be masked."""
        return sum(target.parameter.numel() for target in self.targets)

    @contextmanager
    def session(self, fractions: Sequence[float] = ()) -> Iterator[MaskingSession]:
        """
        Time in which the weights may be masked; at its end, however it ends, they are what they were before.

        One session at a time for a model: another thread waits for its turn. Ctrl-C during the restoring takes effect
        after it.

        Args:
            fractions (`Sequence[float]`, *optional*, defaults to `()`):
                Masked fractions of the levels, ascending, each in [0, 1). If these are the fractions that
                [`~Masker.hold_levels`] was called with, the held copies are used.

        Yields:
            [`MaskingSession`]: What sets the level.

        Raises:
            ValueError: If a fraction is out of range or smaller than the one before it.
            RuntimeError: If this thread already has a session on the model.
        """
        fractions = _checked_fractions(fractions)
        with _only_session(self.model):
            self._notice_change()
            held = self._held if self._held is not None and self._held.fractions == fractions else None
            session = MaskingSession(self, fractions, held)
            self.report = session.report
            try:
                yield session
            finally:
                try:
                    session.close()
                except KeyboardInterrupt:  # came before it could be deferred
                    session.close()
                    raise

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """
        Time in which the model has its own weights, since no thread may open a session on it.

        Raises:
            RuntimeError: If this thread already has a session on the model.
        """
        with _only_session(self.model):
            yield

    def fits_in_memory(self, fractions: Sequence[float]) -> bool:
        """
        Whether [`~Masker.hold_levels`] would take at most a quarter of the free memory of every device.

        Args:
            fractions (`Sequence[float]`):
                Masked fractions of the levels.

        Returns:
            `bool`: `True` if it would, or if these levels are held already.
        """
        fractions = _checked_fractions(fractions)
        if self._held is not None and self._held.fractions == fractions:
            return True
        needed = _bytes_by_device([target.parameter for target in self.targets])
        return all(len(fractions) * size <= free_memory(device) / 4 for device, size in needed.items())

    def hold_levels(self, fractions: Sequence[float]) -> None:
        """
        Compute the masked weights of all levels once and keep them, so that setting a level only swaps tensors.

        Sessions with these fractions use them, and compute them anew if the weights have changed in the meantime.
        Outside of sessions the model has its own weights.

        Args:
            fractions (`Sequence[float]`):
                Masked fractions of the levels, ascending, each in [0, 1).

        Raises:
            ValueError: If a fraction is out of range or smaller than the one before it.
            RuntimeError: If this thread already has a session on the model.
        """
        fractions = _checked_fractions(fractions)
        with _only_session(self.model):
            self._notice_change()
            if self._held is None or self._held.fractions != fractions:
                self._held = None  # frees the memory before it is taken again
                self._held = self._hold(fractions)

    def release(self) -> None:
        """Drop the held levels."""
        self._held = None

    @property
    def noticed_state(self) -> object:
        """The `weights_state` of the last session: the same object as long as the weights are the same."""
        return self._weights_state

    def weights_state(self) -> tuple[object, ...]:
        """Something that changes when the weights do, maskable or not; cheap, and of this process only."""
        return _state_of(list(self.model.parameters()))

    def _notice_change(self) -> None:
        """Forget what was found out about other weights than the present ones."""
        state = self.weights_state()
        if state == self._weights_state:
            return
        check_maskable(self.model)
        self.targets = find_targets(self.model, self.target_modules)  # perhaps parameters were replaced by others
        self._weights_state = state
        self._thresholds.clear()
        self._zeros_before = None
        if self._held is not None:
            logger.info("The weights have changed: computing the held levels anew.")
            fractions, self._held = self._held.fractions, None
            self._held = self._hold(fractions)

    @_plain_writes()
    def _hold(self, fractions: tuple[float, ...]) -> _HeldLevels:
        latest = [target.parameter.data for target in self.targets]
        self._find_thresholds(fractions, latest)
        stacks, zeros = [weights.new_empty(len(fractions), *weights.shape) for weights in latest], []
        for level, fraction in enumerate(fractions):
            latest = [stack[level].copy_(weights) for stack, weights in zip(stacks, latest, strict=True)]
            if fraction > 0:
                self._mask(latest, fraction)
            zeros.append(sum(map(count_zeros, latest)))
        return _HeldLevels(fractions, stacks, zeros)

    @property
    def fits_side_by_side(self) -> bool:
        """Whether the model's layers allow `side_by_side`."""
        return plain_layers(self.model, self.targets) is not None

    @contextmanager
    def side_by_side(self) -> Iterator[list[LevelReport]]:
        """
        Time in which the model computes with all held levels at once: the first part of a batch with the weights of
        level 0, the next part with those of level 1, and so on. The model's own weights stay as they are.

        For a row on its own this takes about two thirds of the time of one pass a level, most of which is overhead.

        Yields:
            `list[LevelReport]`: What each level masks; a batch must have a multiple of that many rows.

        Raises:
            RuntimeError: If no levels are held, if a layer is not plain (see `fits_side_by_side`), or if this thread
                already has a session on the model.
        """
        with _only_session(self.model):
            self._notice_change()
            layers = plain_layers(self.model, self.targets)
            if self._held is None or layers is None:
                raise RuntimeError("Levels stand side by side only when they are held and all layers are plain.")
            before = self._count_zeros_before([target.parameter.data for target in self.targets])
            levels = enumerate(zip(self._held.fractions, self._held.zeros, strict=True))
            with stacked_forward(layers, self._held.stacks):
                yield [LevelReport(i, share, self.maskable, zeros - before, before) for i, (share, zeros) in levels]

    @contextmanager
    def watch_reads(self) -> Iterator[set[str]]:
        """Time in which it is seen which targets the model reads round their layers: their names."""
        with WatchedReads(self.targets) as watched:
            yield watched.names

    def _mask(self, tensors: Sequence[torch.Tensor], fraction: float) -> None:
        """Mask `tensors`, the weights of the targets or what a smaller mask left of them, in place."""
        matrices = self._matrices(tensors)
        if self.masking == "random":
            for matrix in matrices:
                random_mask_(matrix, fraction, self.seed)
        else:
            for matrix, threshold in zip(matrices, self._thresholds[fraction], strict=True):
                magnitude_mask_(matrix, threshold, self.seed)

    def _matrices(self, tensors: Sequence[torch.Tensor]) -> list[WeightMatrix]:
        matrices, position = [], 0
        for target, tensor in zip(self.targets, tensors, strict=True):
            first_index = 0
            for weights in target.split(tensor):
                matrices.append(WeightMatrix(weights, target.name, first_index, position))
                first_index += weights.numel()
                if self.scope == "global":
                    position += weights.numel()
        return matrices

    def _find_thresholds(self, fractions: Sequence[float], originals: Sequence[torch.Tensor]) -> None:
        """Find the thresholds of the unmasked weights at `fractions`, unless they are known."""
        missing = [fraction for fraction in fractions if fraction not in self._thresholds]
        if self.masking == "random" or not missing:
            return
        matrices = self._matrices(originals)
        if self.scope == "global":
            found = [magnitude_thresholds(matrices, missing, self.seed)] * len(matrices)
        else:
            found = [magnitude_thresholds([matrix], missing, self.seed) for matrix in matrices]
        self._thresholds.update(zip(missing, map(list, zip(*found, strict=True)), strict=True))

    def _count_zeros_before(self, originals: Sequence[torch.Tensor]) -> int:
        if self._zeros_before is None:
            self._zeros_before = sum(map(count_zeros, originals))
        return self._zeros_before

    def _expected(self, fraction: float, zeros_before: int) -> float:
        """Number of weights that a masked fraction should set to zero, at least."""
        if self.masking == "random":
            return fraction * (self.maskable - zeros_before)
        return fraction * self.maskable - zeros_before  # zeros are the smallest weights, and masked first


class MaskingSession:
    """
    Sets the masked fraction of the weights, within [`Masker.session`].

    Masks are nested, so that a larger fraction is put over a smaller one in place. One copy of the maskable weights is
    taken when the first of them is masked: on their device if it leaves half of the free memory, else on the host.

    Args:
        masker (`Masker`):
            What knows the weights and their masks.
        fractions (`tuple[float, ...]`):
            Masked fractions of the levels.
        held (`_HeldLevels`, *optional*):
            Masked weights of these levels.

    Attributes:
        report (`list[LevelReport]`):
            Levels set so far, in the order of the levels.
    """

    def __init__(self, masker: Masker, fractions: tuple[float, ...], held: _HeldLevels | None = None) -> None:
        self.fractions = fractions
        self.report: list[LevelReport] = []
        self._masker = masker
        self._targets = masker.targets
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
            [`LevelReport`]: What was masked; it is in `report` too.

        Raises:
            ValueError: If there is no such level.
            RuntimeError: If weights should have been masked and none was, or if the session is over.
        """
        if not 0 <= level < len(self.fractions):
            raise ValueError(f"`level` must be in [0, {len(self.fractions)}), got {level}.")
        zeros_before = self._masker._count_zeros_before(self._originals())
        if self._held is not None:
            self._swap(level)
            zeros = self._held.zeros[level]
        else:
            self.set_fraction(self.fractions[level])
            zeros = sum(count_zeros(target.parameter.data) for target in self._targets)
        report = LevelReport(level, self.fractions[level], self._masker.maskable, zeros - zeros_before, zeros_before)
        self._add(report)
        return report

    @_plain_writes()
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
        _checked_fractions([fraction])
        self._check_open()
        self._swap_back()
        if self._fraction is None or fraction < self._fraction:
            self._copy_back()
        if fraction == self._fraction:
            return
        originals = self._originals()
        self._masker._find_thresholds(self.fractions if fraction in self.fractions else [fraction], originals)
        if self._backup is None:
            self._backup = _backup_of(originals)
        self._fraction = None
        self._masker._mask([target.parameter.data for target in self._targets], fraction)
        self._fraction = fraction

    def close(self) -> None:
        """Restore every weight, bit for bit; nothing can be masked afterwards. Calling it again does nothing."""
        with _deferred_interrupt(), _plain_writes():
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
        return self._backup if self._backup is not None else [target.parameter.data for target in self._targets]

    def _copy_back(self) -> None:
        if self._backup is not None:
            for target, tensor in zip(self._targets, self._backup, strict=True):
                target.parameter.data.copy_(tensor)  # `data`: the version counter tells whether the user trained
        self._fraction = 0.0

    @_plain_writes()
    def _swap(self, level: int) -> None:
        """Put the held tensors of a level in the places of the model's own."""
        self._check_open()
        self._unmask()
        if self.fractions[level] > 0:
            self._own = [target.parameter.data for target in self._targets]
            _place(self._targets, [stack[level] for stack in self._held.stacks])

    def _swap_back(self) -> None:
        if self._own is not None:
            _place(self._targets, self._own)
            self._own = None

    def _add(self, report: LevelReport) -> None:
        expected = self._masker._expected(report.masked_fraction, report.zeros_before)
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


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    fractions = tuple(map(float, fractions))
    if not all(0 <= fraction < 1 for fraction in fractions):
        raise ValueError(f"Masked fractions must be in [0, 1), got {fractions}.")
    if any(after < before for before, after in itertools.pairwise(fractions)):
        raise ValueError(f"Masked fractions must be ascending, got {fractions}.")
    return fractions


def _state_of(parameters: Sequence[nn.Parameter]) -> tuple[object, ...]:
    """
    Something that changes when the weights do: address, version and type of each parameter, and a few of its weights.

    The version counter sees optimizers and `load_state_dict`. Code that writes through `data`, as merging adapters
    does, changes whole matrices without moving it; the few weights see that.
    """
    known, samples = [], {}
    for parameter in parameters:
        version = None if parameter.is_inference() else parameter._version
        known.append((parameter.data_ptr(), version, parameter.dtype, parameter.device))
        samples.setdefault((parameter.device, parameter.dtype), []).append(_sample(parameter.data))
    values = (torch.cat(group).double().cpu().numpy().tobytes() for group in samples.values())
    return *known, *values


def _sample(weights: torch.Tensor) -> torch.Tensor:
    count = min(_SAMPLES, weights.numel())
    index = torch.arange(count, device=weights.device) * (weights.numel() // max(count, 1))
    return torch.take(weights, index)


def _bytes_by_device(tensors: Sequence[torch.Tensor]) -> dict[torch.device, int]:
    sizes: dict[torch.device, int] = {}
    for tensor in tensors:
        sizes[tensor.device] = sizes.get(tensor.device, 0) + tensor.nbytes
    return sizes


def _backup_of(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies, each on the device of its original unless that would take more than half of what is free there."""
    has_room = {device: size <= free_memory(device) / 2 for device, size in _bytes_by_device(tensors).items()}
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
def _only_session(model: nn.Module) -> Iterator[None]:
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
