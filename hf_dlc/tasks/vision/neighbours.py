"""Nearest neighbours at several layers: what is learned of a labelled image set, and the shares of a row's label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hf_dlc.utils.memory import free_memory

from .images import places_of


# What lies nearer to an image than this part of the length of its own features differs by rounding: it counts as a
# copy, and all copies weigh the same.
_NEAREST = 1e-3
_LEAST = 1e-20  # of features that are all zero

_PAIRS_AT_ONCE = 2**20  # distances, of which a few copies of other types are made
_PREFIX = "neighbours."  # of the names of saved arrays
_OF_IMAGES = {"digests": "u", "labels": "i"}  # what is saved beside features, and the kind of number in each


@dataclass(frozen=True, eq=False)
class Neighbours:
    """
    Features of the images of a fitted set at several layers, with their labels.

    The source is the first version of Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset
    Pruning", 2024. It leaves open what the neighbours of an image of the set are, and here it is as with prototypes.
    The image itself is none of them, and neither is any other fitted image with the same pixels, whatever its label.
    Images are known by their digests, so that a new image leaves out nothing. It also leaves open which layers count:
    here at most four, see [`~layers.choose_layers`].

    It takes 4 bytes for each feature: of a ViT-S at four layers 6 KB an image, of a ViT-B 12 KB, in memory and in a
    saved file alike. On an accelerator the features are held a second time if they fit into a quarter of its free
    memory, else they are copied there part by part for each micro-batch.

    Args:
        layers (`tuple[str, ...]`):
            Names of the modules whose outputs are compared.
        features (`tuple[np.ndarray, ...]`):
            For each layer the features of all images, float32 of shape `(images, width)`.
        digests (`np.ndarray` of shape `(images, 16)`):
            Digests of their pixels, uint8.
        labels (`np.ndarray` of shape `(images,)`):
            Index of the class of each, int64.
        key (`str`, *optional*, defaults to `""`):
            Digest of all that the rest follows from, as with prototypes.
    """

    layers: tuple[str, ...]
    features: tuple[np.ndarray, ...]
    digests: np.ndarray
    labels: np.ndarray
    key: str = ""

    @classmethod
    def fit(
        cls, features: Mapping[str, np.ndarray], labels: np.ndarray, digests: Sequence[bytes], key: str = ""
    ) -> Neighbours:
        """
        Keep the features of images.

        Args:
            features (`Mapping[str, np.ndarray]`):
                By the name of the layer the features of each image, `(images, width)`.
            labels (`np.ndarray` of shape `(images,)`):
                Index of the class of each image.
            digests (`Sequence[bytes]`):
                Digest of each.
            key (`str`, *optional*, defaults to `""`):
                Digest of all that the arguments follow from.

        Returns:
            [`Neighbours`]
        """
        known = np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
        kept = tuple(np.ascontiguousarray(of_layer, dtype=np.float32) for of_layer in features.values())
        return cls(tuple(features), kept, known, np.asarray(labels, dtype=np.int64), key)

    @classmethod
    def from_arrays(cls, layers: Sequence[str], arrays: Mapping[str, np.ndarray], key: str) -> Neighbours:
        """
        From what [`Neighbours.arrays`] returned, perhaps by way of a file.

        Args:
            layers (`Sequence[str]`):
                Names of the layers, in the order of their depth.
            arrays (`Mapping[str, np.ndarray]`):
                Arrays by name.
            key (`str`):
                Digest of all that they follow from.

        Returns:
            [`Neighbours`]

        Raises:
            ValueError: If the arrays do not belong together.
        """
        wanted = {_PREFIX + name: kind for name, kind in _OF_IMAGES.items()} | {_PREFIX + name: "f" for name in layers}
        kinds = {name: arrays[name].dtype.kind for name in wanted if name in arrays}
        if kinds != wanted:
            raise ValueError(f"arrays of neighbours must be of the kinds {wanted}, got {kinds}. Call fit again.")
        digests, labels, *features = (arrays[name] for name in wanted)
        shapes = [digests.shape, labels.shape, *(of_layer.shape[:-1] for of_layer in features)]
        if shapes != [(labels.size, 16), *[(labels.size,)] * (1 + len(features))]:
            raise ValueError(f"arrays of neighbours must be of the same images, got {shapes}. Call fit again.")
        return cls(tuple(layers), tuple(features), digests, labels, key)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that is no text, to be saved."""
        found = {"digests": self.digests, "labels": self.labels, **dict(zip(self.layers, self.features, strict=True))}
        return {_PREFIX + name: values for name, values in found.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is found out in use, which would change fingerprints."""
        return _from_arrays, (self.layers, self.arrays, self.key)

    def shares(
        self, features: Mapping[str, torch.Tensor], digests: Sequence[bytes], labels: Sequence[int], k: int
    ) -> torch.Tensor:
        """
        The weighted share of each image's nearest neighbours that have its label, at each layer.

        The search is exact, and bounded in memory: a million distances at once. A neighbour at the distance d weighs
        1 / d. A distance below a thousandth of the length of the image's own features counts as that thousandth: it
        differs by rounding, and all copies of an image weigh the same. Of several at the distance of the last one that
        counts, those count that were fitted first.

        Args:
            features (`Mapping[str, torch.Tensor]`):
                By the name of the layer the features of the images, `(images, width)`.
            digests (`Sequence[bytes]`):
                Digest of each image.
            labels (`Sequence[int]`):
                Index of the class of each.
            k (`int`):
                Number of neighbours, `DLCConfig.knn_neighbours`; where fewer are there, all count.

        Returns:
            `torch.Tensor` of shape `(images, layers)`: float32 in [0, 1], **higher = easier**; 0 where no neighbour
            has the label or none is there, NaN where features are no finite numbers.
        """
        own = self._own_places(digests)
        device = next(iter(features.values())).device
        wanted = torch.tensor(labels, device=device)
        found = [
            _share(features[name].float(), of_layer, self._labels_on(device), wanted, own.to(device), k)
            for name, of_layer in zip(self.layers, self._features_on(device), strict=True)
        ]
        return torch.stack(found, dim=1)

    def _own_places(self, digests: Sequence[bytes]) -> torch.Tensor:
        """Pairs of a row and the place of a fitted image that has its pixels, `(pairs, 2)`."""
        pairs = [(row, place) for row, digest in enumerate(digests) for place in self._places.get(digest, ())]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    @cached_property
    def _places(self) -> dict[bytes, list[int]]:
        return places_of(self.digests)

    def _labels_on(self, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.labels).to(device)

    def _features_on(self, device: torch.device) -> list[torch.Tensor]:
        """Features of all layers, on the device if they were found to fit there when it was first asked for."""
        if device not in self._held:
            tensors = [torch.from_numpy(of_layer) for of_layer in self.features]
            fits = device.type != "cpu" and sum(tensor.nbytes for tensor in tensors) <= free_memory(device) / 4
            self._held[device] = [tensor.to(device) for tensor in tensors] if fits else tensors
        return self._held[device]

    @cached_property
    def _held(self) -> dict[torch.device, list[torch.Tensor]]:
        return {}


def _share(
    rows: torch.Tensor, pool: torch.Tensor, of_pool: torch.Tensor, wanted: torch.Tensor, own: torch.Tensor, k: int
) -> torch.Tensor:
    """Share of each row's neighbours with its label at one layer, `(rows,)`."""
    distances, places = _nearest_in_pool(rows, pool, own, k)
    nearest = (_NEAREST * rows.norm(dim=1, keepdim=True)).clamp(min=_LEAST)
    weights = 1 / distances.maximum(nearest)  # an image itself is infinitely far away
    total = weights.sum(dim=1)
    agreeing = (weights * (of_pool[places] == wanted[:, None])).sum(dim=1)
    shares = torch.where(total > 0, agreeing / total, 0)
    return shares.masked_fill(~rows.isfinite().all(dim=1), torch.nan)


def _nearest_in_pool(
    rows: torch.Tensor, pool: torch.Tensor, own: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances and places of the k images of the pool that are nearest to each row, the row itself left out."""
    distances, places = rows.new_empty((len(rows), 0)), own.new_empty((len(rows), 0))
    for start, part in _parts(pool, max(1, _PAIRS_AT_ONCE // max(1, len(rows)))):
        # Differences first: a product of matrices would lose the digits of small distances, and depend on the batch.
        more = torch.cdist(rows, part.to(rows.device), compute_mode="donot_use_mm_for_euclid_dist")
        here = own[(own[:, 1] >= start) & (own[:, 1] < start + len(part))]
        more[here[:, 0], here[:, 1] - start] = torch.inf
        distances = torch.cat([distances, more.nan_to_num(nan=torch.inf, posinf=torch.inf)], dim=1)
        numbers = torch.arange(start, start + len(part), device=rows.device).expand(len(rows), -1)
        places = torch.cat([places, numbers], dim=1)
        chosen = _smallest(distances, k)
        distances, places = distances.gather(1, chosen), places.gather(1, chosen)
    return distances, places


def _parts(pool: torch.Tensor, size: int) -> Iterator[tuple[int, torch.Tensor]]:
    return ((start, pool[start : start + size]) for start in range(0, len(pool), size))


def _smallest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Places of the k smallest values of each row, in ascending order of the places; of equal values the first."""
    if values.shape[1] <= k:
        return torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    # `topk` may choose any of equal values, and a stable sort of all takes a hundred times as long.
    border = values.topk(k, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    below, level = values < border, values == border
    chosen = below | (level & (level.cumsum(dim=1) <= k - below.sum(dim=1, keepdim=True)))
    return chosen.nonzero()[:, 1].reshape(len(values), k)


def _from_arrays(layers: Sequence[str], arrays: Mapping[str, np.ndarray], key: str) -> Neighbours:
    """[`Neighbours.from_arrays`] for pickles, into which dill would put the code of a class method."""
    return Neighbours.from_arrays(layers, arrays, key)
