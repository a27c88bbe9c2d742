"""Masks the weights of a model in place, level by level, and restores them bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from torch import nn

from hf_dlc.utils.memory import bytes_by_device, free_memory

from .levels import HeldLevels, LevelReport, Masking, Scope, TargetMasks, checked_fractions
from .session import MaskingSession, only_session
from .side_by_side import WatchedReads, plain_layers, stacked_forward
from .targets import Target, check_maskable, find_targets


logger = logging.getLogger(__name__)

_SAMPLES = 8  # weights of each target that are looked at to notice a change


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
        self.model = model
        self.masking = masking
        self.seed = seed
        self.scope = scope
        self.target_modules = target_modules
        self.report: list[LevelReport] = []
        self._weights_state: object = None  # of the weights that the next two belong to
        self._masks = self._find_masks()
        self._held: HeldLevels | None = None

    @property
    def targets(self) -> list[Target]:
        """Parameters that are masked."""
        return self._masks.targets

    @property
    def maskable(self) -> int:
        """Number of weights that can be masked."""
        return self._masks.maskable

    @contextmanager
    def session(self, fractions: Sequence[float] = ()) -> Iterator[MaskingSession]:
        """
        Open a session in which the weights may be masked; at its end, however it ends, they are what they were before.

        One session at a time for a model: another thread waits for its turn. Ctrl-C during the restoring takes effect
        after it.

        Args:
            fractions (`Sequence[float]`, *optional*, defaults to `()`):
                Masked fractions of the levels, ascending, each in [0, 1). If these are the fractions that
                [`~Masker.hold_levels`] was called with, the held copies are used.

        Yields:
            [`MaskingSession`]: Its `set_level` masks the weights.

        Raises:
            ValueError: If a fraction is out of range or smaller than the one before it.
            RuntimeError: If this thread already has a session on the model.
        """
        fractions = checked_fractions(fractions)
        with only_session(self.model):
            self._notice_change()
            held = self._held if self._held is not None and self._held.fractions == fractions else None
            session = MaskingSession(self._masks, fractions, held)
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
        Keep the model's own weights in place: until the end of the block no thread may open a session on it.

        Raises:
            RuntimeError: If this thread already has a session on the model.
        """
        with only_session(self.model):
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
        fractions = checked_fractions(fractions)
        if self._held is not None and self._held.fractions == fractions:
            return True
        needed = bytes_by_device([target.parameter for target in self.targets])
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
        fractions = checked_fractions(fractions)
        with only_session(self.model):
            self._notice_change()
            if self._held is None or self._held.fractions != fractions:
                self._held = None  # frees the memory before it is taken again
                self._held = HeldLevels.of(self._masks, fractions)

    def release(self) -> None:
        """Drop the held levels."""
        self._held = None

    @property
    def noticed_state(self) -> object:
        """The `weights_state` of the last session: the same object as long as the weights are the same."""
        return self._weights_state

    def weights_state(self) -> tuple[object, ...]:
        """A value that changes when the weights do, maskable or not; cheap, and of this process only."""
        return _state_of(list(self.model.parameters()))

    def _find_masks(self) -> TargetMasks:
        check_maskable(self.model)
        return TargetMasks(find_targets(self.model, self.target_modules), self.masking, self.seed, self.scope)

    def _notice_change(self) -> None:
        """Forget what was found out about other weights than the present ones."""
        state = self.weights_state()
        if state == self._weights_state:
            return
        self._masks = self._find_masks()  # perhaps parameters were replaced by others
        self._weights_state = state
        if self._held is not None:
            logger.info("The weights have changed: computing the held levels anew.")
            fractions, self._held = self._held.fractions, None
            self._held = HeldLevels.of(self._masks, fractions)

    @property
    def fits_side_by_side(self) -> bool:
        """Whether the model's layers allow `side_by_side`."""
        return plain_layers(self.model, self.targets) is not None

    @contextmanager
    def side_by_side(self) -> Iterator[list[LevelReport]]:
        """
        Let the model compute with all held levels at once: the first part of a batch with the weights of level 0, the
        next part with those of level 1, and so on. The model's own weights stay as they are.

        For a row on its own this takes about two thirds of the time of one pass a level, most of which is overhead.

        Yields:
            `list[LevelReport]`: One a level; a batch must have a multiple of that many rows.

        Raises:
            RuntimeError: If no levels are held, if a layer is not plain (see `fits_side_by_side`), or if this thread
                already has a session on the model.
        """
        with only_session(self.model):
            self._notice_change()
            layers = plain_layers(self.model, self.targets)
            if self._held is None or layers is None:
                raise RuntimeError("Levels stand side by side only when they are held and all layers are plain.")
            levels = enumerate(zip(self._held.fractions, self._held.zeros, strict=True))
            reports = [self._masks.report(i, share, zeros, self._masks.present) for i, (share, zeros) in levels]
            with stacked_forward(layers, self._held.stacks):
                yield reports

    @contextmanager
    def watch_reads(self) -> Iterator[set[str]]:
        """
        Watch which targets the model computes with by itself, and not by calling the layer that they belong to.

        Yields:
            `set[str]`: Names of these targets so far.
        """
        with WatchedReads(self.targets) as watched:
            yield watched.names


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _state_of(parameters: Sequence[nn.Parameter]) -> tuple[object, ...]:
    """
    A value that changes when the weights do: address, version and type of each parameter, and a few of its weights.

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
