"""Class prototypes: what is learned from a labelled image set in place of a trained head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from .images import places_of


Logits = Literal["inverse", "temperature"]

# What is saved, and the kind of number in each.
_ARRAYS = {"sums": "f", "counts": "i", "digests": "u", "labels": "i", "features": "f", "temperature": "f"}

_NEAREST = 1e-6  # distances are at least this
_TEMPERATURES = np.geomspace(0.002, 5, 80)  # in units of the mean distance
_TEMPERATURE_IMAGES = 10_000  # are enough to find it


@dataclass(frozen=True, eq=False)
class Prototypes:
    """
    Sums of the features of a fitted image set, class by class, and the features themselves.

    A fitted image is compared with the mean of the others of its class: it would be too near to a mean that it is
    part of. It is left out of every class that it was fitted in, as often as it was, whatever its label is now. Images
    are known by their digests, so that a new image leaves out nothing.

    Args:
        classes (`tuple[str | int, ...]`):
            Values of the label column, in the order of the rows of `sums`.
        sums (`np.ndarray` of shape `(classes, features)`):
            Sum of the features of the images of each class, float64.
        counts (`np.ndarray` of shape `(classes,)`):
            Number of them, int64.
        digests (`np.ndarray` of shape `(images, 16)`):
            Digests of the pixels of the fitted images, uint8.
        labels (`np.ndarray` of shape `(images,)`):
            Index of the class of each, int64.
        features (`np.ndarray` of shape `(images, features)`):
            Their features under unmasked weights, float32.
        temperature (`float`, *optional*, defaults to 1.0):
            Distance that makes one nat of difference, where logits are `"temperature"`.
        key (`str`, *optional*, defaults to `""`):
            Digest of all that the rest follows from: weights, options, images and labels. (Another number of threads
            would change last digits of the features, but is no other fit.)
    """

    classes: tuple[str | int, ...]
    sums: np.ndarray
    counts: np.ndarray
    digests: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    temperature: float = 1.0
    key: str = ""

    @classmethod
    def fit(
        cls,
        classes: Sequence[str | int],
        labels: np.ndarray,
        digests: Sequence[bytes],
        features: np.ndarray,
        key: str = "",
    ) -> Prototypes:
        """
        Learn from images; the temperature is the one at which the classes of these very images are foretold best.

        Args:
            classes (`Sequence[str | int]`):
                Values of the label column.
            labels (`np.ndarray` of shape `(images,)`):
                Index of the class of each image.
            digests (`Sequence[bytes]`):
                Digest of each.
            features (`np.ndarray` of shape `(images, features)`):
                Features of each.
            key (`str`, *optional*, defaults to `""`):
                Digest of all that the arguments follow from.

        Returns:
            [`Prototypes`]
        """
        features = features.astype(np.float32)
        sums = np.zeros((len(classes), features.shape[1]), dtype=np.float64)
        np.add.at(sums, labels, features)
        known = np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
        counts = np.bincount(labels, minlength=len(classes))
        fitted = cls(tuple(classes), sums, counts, known, labels, features, key=key)
        return replace(fitted, temperature=fitted._best_temperature())

    @classmethod
    def from_arrays(cls, classes: Sequence[str | int], arrays: Mapping[str, np.ndarray], key: str) -> Prototypes:
        """
        From what [`Prototypes.arrays`] returned, perhaps by way of a file.

        Args:
            classes (`Sequence[str | int]`):
                Values of the label column.
            arrays (`Mapping[str, np.ndarray]`):
                Arrays by name.
            key (`str`):
                Digest of all that they follow from.

        Returns:
            [`Prototypes`]

        Raises:
            ValueError: If the arrays do not belong together.
        """
        kinds = {name: arrays[name].dtype.kind for name in _ARRAYS if name in arrays}
        if kinds != _ARRAYS:
            raise ValueError(f"arrays of prototypes must be of the kinds {_ARRAYS}, got {kinds}. Call fit again.")
        *most, temperature = (arrays[name] for name in _ARRAYS)
        sums, counts, digests, labels, features = most
        shapes = (sums.shape, counts.shape, digests.shape, labels.shape, features.shape)
        images, width = labels.size, sums.shape[-1]
        if shapes != ((len(classes), width), (len(classes),), (images, 16), (images,), (images, width)):
            raise ValueError(f"arrays of prototypes must fit {len(classes)} classes and each other, got {shapes}.")
        if images and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels of prototypes must be below {len(classes)}, got {labels.min()}-{labels.max()}.")
        if not np.array_equal(counts, np.bincount(labels, minlength=len(classes))):
            raise ValueError("arrays of prototypes must count the labels that they hold.")
        return cls(tuple(classes), *most, temperature=float(temperature[0]), key=key)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that is no text, to be saved."""
        return {name: np.atleast_1d(getattr(self, name)) for name in _ARRAYS}

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is found out in use, which would change fingerprints."""
        return _from_arrays, (self.classes, self.arrays, self.key)

    @cached_property
    def _places(self) -> dict[bytes, list[int]]:
        return places_of(self.digests)

    def _fitted_as(self, digest: bytes) -> dict[int, int]:
        """The classes in which an image was fitted, and how often in each."""
        return Counter(self.labels[self._places.get(digest, [])].tolist())

    def is_alone(self, digest: bytes, label: int) -> bool:
        """Whether nothing is left of the class of an image if the image is taken out of it."""
        return self.counts[label] <= self._fitted_as(digest)[label]

    def log_probs(self, features: torch.Tensor, digests: Sequence[bytes], logits: Logits = "inverse") -> torch.Tensor:
        """
        Log-probabilities of all classes, of each image.

        Args:
            features (`torch.Tensor` of shape `(images, features)`):
                Features under the weights as they are now.
            digests (`Sequence[bytes]`):
                Digest of each.
            logits (`str`, *optional*, defaults to `"inverse"`):
                `"inverse"`: 1 / distance, as in Jiang et al., "Exploring Learning Complexity for Efficient Downstream
                Dataset Pruning", ICLR 2025; `"temperature"`: - distance / temperature.

        Returns:
            `torch.Tensor` of shape `(images, classes)`: Log-probabilities, float64; minus infinity for a class without
            another fitted image.
        """
        if features.device.type == "mps":  # which has no double precision
            features = features.cpu()
        # Of what has overflowed, all distances would be the same.
        features = features.double().masked_fill(~features.isfinite(), torch.nan)
        distances = self._distances(features, digests)
        scores = 1 / distances if logits == "inverse" else -distances / self.temperature
        scores = scores.masked_fill(distances.isnan(), -torch.inf)
        return F.log_softmax(scores, dim=1)

    def _distances(self, features: torch.Tensor, digests: Sequence[bytes]) -> torch.Tensor:
        """Distances to the means of all classes, `(images, classes)`; NaN where no other image is in a class."""
        means = torch.from_numpy(self._means).to(features.device)
        distances = torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")
        parts = [(row, digest) for row, digest in enumerate(digests) if digest in self._places]
        parts = [(row, digest, *part) for row, digest in parts for part in self._fitted_as(digest).items()]
        if parts:
            rows, classes = [row for row, *_ in parts], [label for *_, label, _ in parts]
            own = np.stack([count * self.features[self._places[digest][0]] for _, digest, _, count in parts])
            left = self.counts[classes] - [count for *_, count in parts]
            others = torch.from_numpy(_divide(self.sums[classes] - own, left)).to(features.device)
            distances[rows, classes] = (features[rows] - others).norm(dim=1)
        return distances.clamp(min=_NEAREST)  # NaN stays NaN

    @cached_property
    def _means(self) -> np.ndarray:
        return _divide(self.sums, self.counts)

    def _best_temperature(self) -> float:
        """Temperature of the least loss on the fitted images, each left out of its class."""
        known = zip(map(np.ndarray.tobytes, self.digests), self.labels, strict=True)
        chosen = np.flatnonzero([not self.is_alone(*image) for image in known])
        chosen = np.random.default_rng(0).permutation(chosen)[:_TEMPERATURE_IMAGES]
        if not chosen.size:
            return 1.0
        features, targets = torch.from_numpy(self.features[chosen]).double(), torch.from_numpy(self.labels[chosen])
        distances = self._distances(features, [self.digests[place].tobytes() for place in chosen])
        scale = float(distances.nanmean())
        scores = (-distances / scale).nan_to_num(nan=-torch.inf)
        losses = [float(F.cross_entropy(scores / t, targets)) for t in _TEMPERATURES]
        return float(_TEMPERATURES[int(np.argmin(losses))] * scale)


def _divide(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of rows; NaN where nothing was summed."""
    return np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)


def _from_arrays(classes: Sequence[str | int], arrays: Mapping[str, np.ndarray], key: str) -> Prototypes:
    """[`Prototypes.from_arrays`] for pickles, into which dill would put the code of a class method."""
    return Prototypes.from_arrays(classes, arrays, key)
