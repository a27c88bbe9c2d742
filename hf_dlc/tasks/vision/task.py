"""Image classifiers: the probability of a row's label, by a trained head or by class prototypes."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Image
from datasets.formatting.formatting import LazyBatch, LazyDict
from torch import nn
from transformers import PreTrainedModel

from hf_dlc.scores.base import Asked
from hf_dlc.scores.columns import MISSING_LABEL, ONLY_OF_CLASS, UNKNOWN_LABEL
from hf_dlc.tasks.base import FULL_VIEW, BatchRules, RowMeasures, RowsInView, Share
from hf_dlc.tasks.features import finished, split_asked
from hf_dlc.tasks.kinds import IMAGE_CLASSIFICATION
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.utils.rounding import epsilon_of, rounded_input

from .images import ImageEncoder, ImageRow
from .layers import captured, choose_layers
from .models import (
    body_of,
    check_head,
    check_image_model,
    full_pooling,
    has_class_token,
    is_image_classifier,
    is_image_model,
)
from .neighbours import Neighbours
from .prototypes import Logits, Prototypes


if TYPE_CHECKING:
    from datasets import Dataset, Features


logger = logging.getLogger(__name__)

_OF_LABELS = (MISSING_LABEL, UNKNOWN_LABEL)
POOLED = "pooled"  # among features by layer, those that prototypes are made of


class Learned(NamedTuple):
    """What `fit` has learned; `None` where nothing of the kind is needed."""

    prototypes: Prototypes | None
    neighbours: Neighbours | None


class ImageClassificationTask:
    """
    The task of image classification: rows are images with labels.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Image classifier, or, with prototypes, its body alone.
        encoder ([`ImageEncoder`]):
            Turns rows into pixels.
        head (`str`, *optional*, defaults to `"auto"`):
            `"classifier"`, the trained head of the model; `"prototype"`, the mean features of each class of a fitted
            set; `"auto"`, the trained head if there is one.
        pooling (`str`, *optional*, defaults to `"auto"`):
            For prototypes: `"cls"`, the first token; `"mean"`, the mean over patches or places. Each may be of the
            module of a name, as in `"mean@layers.8"`. `"auto"` is what the classifiers of the family read: the first
            token where they take it, else the mean.
        logits (`str`, *optional*, defaults to `"inverse"`):
            For prototypes, see [`Prototypes.log_probs`].
        learns_neighbours (`bool`, *optional*, defaults to `False`):
            Whether the features of fitted images are learned at several layers ([`choose_layers`]), so that a row's
            nearest neighbours can be measured. Each layer is pooled as `pooling` says: first token or mean.
        knn_neighbours (`int`, *optional*, defaults to 10):
            How many neighbours count.

    Raises:
        ValueError: If the model is no image model, or lacks what an option asks for.
    """

    kind = IMAGE_CLASSIFICATION
    views = frozenset({FULL_VIEW})
    measurable = frozenset({"token", "distribution", "neighbours"})
    poolings = (POOLED,)
    default_schedules: Mapping[str, tuple[float, ...]] = {
        "magnitude": (0.0, 0.2, 0.4, 0.6),
        "random": (0.0, 0.05, 0.1, 0.2),
    }
    probe = None

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: ImageEncoder,
        head: str = "auto",
        pooling: str = "auto",
        logits: Logits = "inverse",
        learns_neighbours: bool = False,
        knn_neighbours: int = 10,
    ) -> None:
        name = type(model).__name__
        if not is_image_model(model.config, [name]):
            raise ValueError(f"{name} is no image classifier, nor the body of one.")
        check_image_model(model.config, name)
        self.body = body_of(model)
        if not model.config.return_dict:
            raise ValueError(
                f"{name} must give named outputs, got return_dict=False. Set model.config.return_dict = True."
            )
        if head == "classifier" and not is_image_classifier(name):
            raise ValueError(f"{name} has no classifier head. Pass head='prototype'.")
        self.model = model
        self.encoder = encoder
        self.head = ("classifier" if is_image_classifier(name) else "prototype") if head == "auto" else head
        if self.head == "classifier":
            check_head(model)
        self.pooling = full_pooling(self.body, pooling)
        self.logits: Logits = logits
        self.layers = choose_layers(self.body) if learns_neighbours else ()
        self.knn_neighbours = knn_neighbours
        self.prototypes: Prototypes | None = None
        self.neighbours: Neighbours | None = None
        self.reading: DatasetReading | None = None
        self.rules = BatchRules()
        self._warned_of_numbers = False

    @property
    def classes(self) -> tuple[str | int, ...]:
        """
        The classes that rows can have.

        Raises:
            ValueError: If they are not known yet.
        """
        if self.head == "classifier":
            labels = self.model.config.id2label
            return tuple(labels[index] for index in range(len(labels)))
        if self.prototypes is None:
            raise ValueError(
                "class prototypes must be learned from the labelled images first. Call scorer.fit(dataset), or pass "
                "head='classifier' if the model has a trained head."
            )
        return self.prototypes.classes

    def describe(self) -> dict[str, Any]:
        """What, besides weights and processor, changes a score."""
        images = {
            **self.encoder.describe(),
            "head": self.head,
            "pooling": self.pooling,
            "logits": self.logits if self.head == "prototype" else None,
            "prototypes": self.prototypes and self.prototypes.key,
            "layers": list(self.layers),
            "neighbours": self.neighbours and self.neighbours.key,
        }
        return {"images": images}

    def view(self, rows: Sequence[ImageRow], view: str) -> RowsInView:
        """The rows as they are: an image has the full view only."""
        return RowsInView(list(rows), np.arange(len(rows)))

    adapter_task = None  # peft has no name for image classification

    @property
    def why_untrainable(self) -> str | None:
        """A body has no head whose loss could be trained with."""
        return None if self.head == "classifier" else "images that are scored by prototypes have no head to train"

    def training_batch(self, rows: Sequence[ImageRow]) -> dict[str, torch.Tensor]:
        """Pixels and labels of images, for the loss of the trained head."""
        pixels = torch.stack([row.pixels for row in rows]).to(self.model.device)
        return {"pixel_values": pixels, "labels": torch.tensor([row.label for row in rows], device=pixels.device)}

    def preview(self, dataset: Dataset) -> str:
        """Refused: images have no text."""
        raise ValueError("images have no text to show. Look at the images and labels of the dataset.")

    def tokenize(self, dataset: Dataset) -> tuple[list[ImageRow], dict[str, list[Any]]]:
        """Refused: images have no tokens."""
        raise ValueError("images have no tokens. Train on them with the model's image processor.")

    @property
    def num_shared_heads(self) -> int:
        """One, the empty one: images have no shared head."""
        return 1

    @property
    def is_dated(self) -> bool:
        """Always false: no image is encoded by the date."""
        return False

    def check(self, longest: int, weights: object) -> None:
        """Check nothing: an image is read whole, and images of a batch are not padded."""

    def samples(self) -> list[ImageRow]:
        """A made-up image, the same in every process."""
        import PIL.Image

        ramp = np.arange(3 * 64 * 64, dtype=np.int64).reshape(64, 64, 3)
        image = PIL.Image.fromarray((ramp * ramp // 97 % 251).astype(np.uint8))
        return self.encoder.encode([image], [0])

    @contextmanager
    def rounded(self) -> Iterator[float]:
        """Context in which the input of the model is changed by one rounding; yields the size of the rounding."""
        epsilon = epsilon_of(self.model)
        first = next(module for module in self.model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        with rounded_input(first, epsilon):
            yield epsilon

    def shares(self, shared_head: int) -> bool:
        """Images have no beginning in common."""
        return False

    def run_shared_head(self, shared_head: int, copies: int = 1) -> None:
        """Refused, as none is shared."""
        raise ValueError(f"images have no beginning in common, got shared_head={shared_head}.")

    def features_size(self, pooling: str) -> int:
        """Size of the pooled features of a made-up image."""
        return self.features(self.samples()).shape[1]

    def features(self, rows: Sequence[ImageRow]) -> torch.Tensor:
        """
        Features of images, before any head.

        Args:
            rows (`Sequence[ImageRow]`):
                Rows with their pixels.

        Returns:
            `torch.Tensor` of shape `(images, features)`, float32.
        """
        return self.features_at(rows, ())[POOLED]

    def features_to_fit(self, rows: Sequence[ImageRow]) -> dict[str, torch.Tensor]:
        """Features that `fit` learns from: those of the layers, and those of prototypes where these are needed."""
        found = self.features_at(rows, self.layers)
        return found if self.head == "prototype" else {name: found[name] for name in self.layers}

    @torch.inference_mode()
    def features_at(self, rows: Sequence[ImageRow], layers: Sequence[str]) -> dict[str, torch.Tensor]:
        """
        Features of images, before any head, and those of layers on the way.

        Args:
            rows (`Sequence[ImageRow]`):
                Rows with their pixels.
            layers (`Sequence[str]`):
                Names of modules of the body.

        Returns:
            `dict[str, torch.Tensor]`: By the name of the layer, and as `"pooled"` what `features` returns; each
            float32 of shape `(images, features)`.
        """
        pixels, name = self._pixels(rows), self.pooling.partition("@")[2]
        with captured(self.body, [*filter(None, [name]), *layers]) as found:
            outputs = self.body(pixel_values=pixels)
        hidden = found[name] if name else self._last_hidden_state(outputs)
        return {POOLED: self._pooled(hidden, outputs, pixels), **self._of_layers(found, layers, pixels)}

    def _pixels(self, rows: Sequence[ImageRow]) -> torch.Tensor:
        return torch.stack([row.pixels for row in rows]).to(self.model.device)

    def _pooled(self, hidden: torch.Tensor, outputs: Any, pixels: torch.Tensor) -> torch.Tensor:
        """The features of images, pooled as the user says."""
        kind, _, name = self.pooling.partition("@")
        if kind == "cls" and hidden.dim() == 4:  # CvT keeps the token beside the map
            hidden = getattr(outputs, "cls_token_value", None) if not name else None
            if hidden is None:
                raise ValueError(f"pooling={self.pooling!r} found a map without a class token. Pass 'mean'.")
        hidden = hidden.float()
        if hidden.dim() == 2:  # a module that pools by itself
            return hidden
        if hidden.dim() == 4:  # (images, features, height, width), of a CNN
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if kind == "cls" else self._patches(hidden, pixels).mean(dim=1)

    def _of_layers(
        self, found: Mapping[str, torch.Tensor], layers: Sequence[str], pixels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        The pooled features of layers.

        Maps, and tokens whose number changes from layer to layer, are averaged: only the last of such stages has a
        class token, if any has.
        """
        hidden = {name: found[name].float() for name in layers}
        has_stages = len({states.shape[1:-1] for states in hidden.values()}) > 1
        pooled = {}
        for name, states in hidden.items():
            if states.dim() == 4:
                pooled[name] = states.mean(dim=(2, 3))
            elif has_stages:
                pooled[name] = states.mean(dim=1)
            elif self.pooling.startswith("cls"):
                pooled[name] = states[:, 0]
            else:
                pooled[name] = self._patches(states, pixels).mean(dim=1)
        return pooled

    def _patches(self, hidden: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The tokens without those that stand before the patches (class, distillation, registers)."""
        size = getattr(self.body.config, "patch_size", None)
        if not isinstance(size, int) and not has_class_token(self.body):
            return hidden
        if size is None:  # PVT, DINOv3 ConvNeXt: the class token alone, if these are the last hidden states
            return hidden[:, 1:] if "@" not in self.pooling else hidden
        height, width = (size, size) if isinstance(size, int) else size
        patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
        return hidden[:, max(0, hidden.shape[1] - patches) :]

    @torch.inference_mode()
    def forward(
        self, rows: Sequence[ImageRow], measures: Sequence[Asked] = (), shared_head: Any = None, parts: int = 1
    ) -> RowMeasures:
        """
        Measure a micro-batch with the weights as they are now.

        Args:
            rows (`Sequence[ImageRow]`):
                Rows with their pixels.
            measures (`Sequence[Asked]`, *optional*, defaults to `()`):
                What is measured.
            shared_head (`None`):
                Images have none.
            parts (`int`, *optional*, defaults to 1):
                Number of equal parts of the micro-batch that meet weights of their own.

        Returns:
            [`RowMeasures`]: Each measure of shape `(len(rows),)`, and features; `states` are logits or features.
        """
        measures, vectors = split_asked(measures)
        digests = [row.digest for row in rows]
        asks_neighbours = any(measure.kind == "neighbours" for measure in measures)
        layers = self.layers if asks_neighbours else ()
        if self.head == "classifier":
            states, features = self._logits(rows, layers, with_features=vectors is not None)
            distribution = states.log_softmax(dim=1)
        else:
            features = self.features_at(rows, layers)
            states = features[POOLED]
            distribution = self.prototypes.log_probs(states, digests, self.logits)
        labels = torch.tensor([row.label for row in rows], device=distribution.device)
        log_probs = distribution.gather(1, labels[:, None])[:, 0]
        shares = None
        if asks_neighbours:
            shares = self.neighbours.shares(features, digests, [row.label for row in rows], self.knn_neighbours)
        values = {measure.name: measure.numbers(log_probs, distribution, shares).float() for measure in measures}
        if vectors is not None:
            values[vectors.name] = finished(features[POOLED], vectors)
        return RowMeasures(values, states)

    def _logits(
        self, rows: Sequence[ImageRow], layers: Sequence[str], with_features: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the trained head says of images, and the features of layers and of the body on the way to it."""
        pixels, name = self._pixels(rows), self.pooling.partition("@")[2] if with_features else ""
        with captured(self.body, [*filter(None, [name]), *layers]) as found, self._outputs_of_body() as of_body:
            outputs = self.model(pixel_values=pixels)
        logits = getattr(outputs, "logits", outputs[0]).float()  # PP-LCNet gives them another name
        features = self._of_layers(found, layers, pixels)
        if with_features:
            hidden = found[name] if name else self._last_hidden_state(of_body[0])
            features[POOLED] = self._pooled(hidden, of_body[0], pixels)
        return logits, features

    @contextmanager
    def _outputs_of_body(self) -> Iterator[list[Any]]:
        """Collect what the body puts out while the model runs."""
        outputs: list[Any] = []
        hook = self.body.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            yield outputs
        finally:
            hook.remove()

    def _last_hidden_state(self, outputs: Any) -> torch.Tensor:
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None:
            raise ValueError(
                f"{type(self.body).__name__} gives no last hidden state to make features of. Name a module, as in "
                "pooling='mean@layers.8'."
            )
        return hidden

    def encode_rows(self, rows: Mapping[str, Any]) -> tuple[list[ImageRow], bool]:
        """
        Encode a row or a batch, as `datasets.map` hands them over.

        Returns:
            `tuple[list[ImageRow], bool]`: The rows, and whether there was a batch of them.

        Raises:
            ValueError: If there is no image or label column, if prototypes or neighbours have not been learned yet, or
                if the dataset has a format.
        """
        self._require_neighbours()
        if isinstance(rows, list):  # of rows, as text scorers take them too
            rows = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        if isinstance(rows, LazyDict):
            # From it `datasets` would decode all columns, or fail at the first bad image.
            image, label = self._columns_of(rows.formatter.features)
            source, labels = (rows.pa_table[name].to_pylist() for name in (image, label))
            self._check_names(rows.formatter.features[label], labels)
            return self._encode(source, labels), isinstance(rows, LazyBatch)
        if any(getattr(values, "ndim", 0) for values in rows.values()):
            raise ValueError("images must come as they are stored, got arrays. Call dataset.with_format(None) first.")
        is_batch = all(isinstance(values, list) for values in rows.values())
        columns = dict(rows) if is_batch else {name: [value] for name, value in rows.items()}
        images = [name for name, values in columns.items() if any(map(_is_image, values))]
        image, label = self.encoder.find_columns(list(columns), images, [])
        self._warn_of_numbers(columns[label])
        return self._encode(columns[image], columns[label]), is_batch

    def encode_dataset(self, dataset: Dataset, share: Share | None = None) -> list[ImageRow]:
        """
        Encode a dataset, whose images stay where they are. With `share`, each process reads its part of them.

        Raises:
            ValueError: If there is no image or label column, if prototypes or neighbours have not been learned yet, or
                if the labels are not those of the head.
        """
        self._require_neighbours()
        return self._encode_dataset(dataset, share)

    def _require_neighbours(self) -> None:
        if self.layers and self.neighbours is None:
            raise ValueError(
                "neighbours must be learned from the labelled images first. Call scorer.fit(dataset), or leave "
                "knn_confidence out of the scores."
            )

    def _encode_dataset(self, dataset: Dataset, share: Share | None) -> list[ImageRow]:
        image, label = self._columns_of(dataset.features)
        source, labels = _raw(dataset, image), _labels(dataset, label)
        self._check_names(dataset.features[label], labels)
        if set(labels) - {None, -1} and not any(isinstance(found, int) for found in self._indices(labels)):
            raise ValueError(
                f"the labels of the dataset must be those of the head, got {_shown(sorted(set(map(str, labels))))} "
                f"for {_shown(self.classes)}. Pass head='prototype', or call scorer.fit(dataset)."
            )
        return self._encode(source, labels, share)

    def encode_to_fit(
        self, dataset: Dataset, share: Share | None = None
    ) -> tuple[list[ImageRow], tuple[str | int, ...]]:
        """
        Encode a dataset that is to be learned from; the second value is the classes.

        They are those of the dataset. Where neighbours are learned beside a trained head, they are those of the head.
        """
        if self.head == "classifier" and self.layers:
            return self._encode_dataset(dataset, share), self.classes
        image, label = self._columns_of(dataset.features)
        source, labels = _raw(dataset, image), _labels(dataset, label)
        names = getattr(dataset.features[label], "names", None)
        _require_single(labels)
        values = {value for value in labels if value is not None}
        classes = tuple(names) if names else tuple(sorted(values, key=lambda value: (str(type(value)), value)))
        return self.encoder.encode(source, _label_indices(labels, classes), share), classes

    def encode_to_embed(
        self, dataset: Dataset, share: Share | None = None
    ) -> tuple[list[ImageRow], tuple[str | int, ...]]:
        """Encode images whatever their labels are, also where there are none; the second value is empty."""
        images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
        image = self.encoder.find_image(dataset.column_names, images)
        # Any label will do: it is not looked at.
        return self.encoder.encode(_raw(dataset, image), [0] * len(dataset), share), ()

    @property
    def learned(self) -> Learned | None:
        """What is fitted, once all that is needed is."""
        lacks_prototypes = self.head == "prototype" and self.prototypes is None
        lacks_neighbours = bool(self.layers) and self.neighbours is None
        if not self.needs_fit or lacks_prototypes or lacks_neighbours:
            return None
        return Learned(self.prototypes, self.neighbours)

    @learned.setter
    def learned(self, learned: Learned) -> None:
        self.prototypes, self.neighbours = learned

    @property
    def needs_fit(self) -> bool:
        """Whether prototypes or neighbours must be learned first."""
        return self.head == "prototype" or bool(self.layers)

    def fit(
        self,
        rows: Sequence[ImageRow],
        classes: tuple[str | int, ...],
        features: Mapping[str, np.ndarray],
        key: str,
    ) -> None:
        """
        Learn class prototypes, neighbours, or both.

        Args:
            rows (`Sequence[ImageRow]`):
                What `encode_to_fit` returned.
            classes (`tuple[str | int, ...]`):
                The classes of these rows.
            features (`Mapping[str, np.ndarray]`):
                What `features_to_fit` returned of each row, NaN where there are none.
            key (`str`):
                Digest of all that the rest follows from.

        Raises:
            ValueError: If there are fewer than two classes with readable images.
        """
        finite = [np.isfinite(found).all(axis=1) for found in features.values()]
        kept = np.flatnonzero(np.all([*finite, [row.length > 0 for row in rows]], axis=0))
        if len({rows[place].label for place in kept}) < 2:
            raise ValueError(
                f"fit needs readable images of at least two classes, got {len(kept)} of {len(rows)} rows with "
                f"image, label and features, of fewer classes: {dict(Counter(row.status for row in rows))}. Pass "
                "other rows."
            )
        labels, digests = zip(*((rows[place].label, rows[place].digest) for place in kept), strict=True)
        if self.head == "prototype":
            self.prototypes = Prototypes.fit(classes, np.array(labels), digests, features[POOLED][kept], key)
        if self.layers:
            of_layers = {name: features[name][kept] for name in self.layers}
            self.neighbours = Neighbours.fit(of_layers, np.array(labels), digests, key)

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """What was learned as arrays and texts; both are empty where nothing was."""
        if self.learned is None:
            return {}, {}
        arrays, texts = {}, {"classes": json.dumps(self.classes)}
        if self.prototypes is not None:
            arrays |= self.prototypes.arrays
            texts["key"] = self.prototypes.key
        if self.neighbours is not None:
            arrays |= self.neighbours.arrays
            texts |= {"key": self.neighbours.key, "layers": json.dumps(self.neighbours.layers)}
        return arrays, texts

    def restore(self, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
        """
        Take what `saved` returned, as far as it is there and needed; `learned` is `None` if something is missing.

        Raises:
            ValueError: If the arrays do not belong together.
        """
        classes, layers = json.loads(texts["classes"]), tuple(json.loads(texts.get("layers", "[]")))
        if self.head == "prototype" and "sums" in arrays:
            self.prototypes = Prototypes.from_arrays(classes, arrays, texts["key"])
        if self.layers and layers == self.layers:
            self.neighbours = Neighbours.from_arrays(layers, arrays, texts["key"])

    def feed(self, rows: Sequence[ImageRow]) -> Iterator[ImageRow]:
        """The same rows, with their pixels."""
        return self.encoder.feed(rows)

    def _columns_of(self, features: Features) -> tuple[str, str]:
        """The image and the label column; says once what is read."""
        image, label = self._find_columns(features)
        unread = tuple(name for name in features if name not in (image, label))
        learned = "the label, by the trained head" if self.head == "classifier" else "the label, by class prototypes"
        reading = DatasetReading("images", {"image": image, "label": label}, "as pixels", learned, unread)
        if reading != self.reading:
            self.reading = reading
            logger.info("%s", reading)
        return image, label

    def _find_columns(self, features: Features) -> tuple[str, str]:
        images = [name for name, feature in features.items() if isinstance(feature, Image)]
        classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        return self.encoder.find_columns(list(features), images, classes)

    def _check_names(self, feature: Any, labels: Sequence[Any]) -> None:
        """Labels are numbers; the names say whether they mean the same to the dataset and to the head."""
        _require_single(labels)
        names, classes = getattr(feature, "names", None), self.classes
        if names is None and self._lacks_names(labels):
            raise ValueError(
                f"labels that are numbers must have names, since those of the head do: {_shown(classes)}. Use "
                "dataset.cast_column(<label>, ClassLabel(names=[...])) with the names in the order of the numbers."
            )
        if names is None or list(map(_plain, names)) == list(map(_plain, classes)):
            return
        raise ValueError(
            f"the labels of the dataset must be those of the head, in its order, got {_shown(names)} for "
            f"{_shown(classes)}. Use dataset.align_labels_with_mapping(model.config.label2id, ...), pass "
            "head='prototype', or call scorer.fit(dataset)."
        )

    def _lacks_names(self, labels: Sequence[Any]) -> bool:
        """Whether there are numbers of classes that are known by names, and not by such as transformers makes up."""
        made_up = [f"LABEL_{index}" for index in range(len(self.classes))]
        has_names = any(isinstance(name, str) for name in self.classes) and list(self.classes) != made_up
        return has_names and any(isinstance(label, int) and label >= 0 for label in labels)

    def _warn_of_numbers(self, labels: Sequence[Any]) -> None:
        """A stream does not hand over the names of its labels."""
        _require_single(labels)
        if self._lacks_names(labels) and not self._warned_of_numbers:
            self._warned_of_numbers = True
            logger.warning(
                "these rows have numbers as labels and no names of them: they are taken as places in %s",
                _shown(self.classes),
            )

    def _indices(self, labels: Sequence[Any]) -> list[int | str]:
        return _label_indices(labels, self.classes)

    def _encode(self, source: Sequence[Any], labels: Sequence[Any], share: Share | None = None) -> list[ImageRow]:
        rows = self.encoder.encode(source, self._indices(labels), share)
        pairs = zip(rows, labels, strict=True)
        return self.with_reasons([self._told(row, label) if row.status in _OF_LABELS else row for row, label in pairs])

    def _told(self, row: ImageRow, label: Any) -> ImageRow:
        """The row with what is wrong with its label."""
        is_missing = row.status == MISSING_LABEL
        why = "there is no label" if is_missing else f"the label {label!r} is none of {_shown(self.classes)}"
        return row._replace(why=why)

    def with_reasons(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """The rows; one that cannot be compared with the prototype of its class says why in its status."""
        if self.head != "prototype" or self.prototypes is None:
            return list(rows)
        return [self._with_reason(row) if row.length else row for row in rows]

    def _with_reason(self, row: ImageRow) -> ImageRow:
        """The row, or why it cannot be compared with the prototype of its class."""
        name = self.prototypes.classes[row.label]
        if self.prototypes.counts[row.label] == 0:
            return row._replace(status=UNKNOWN_LABEL, pixels=None, why=f"no fitted image is of its class, {name!r}")
        if self.prototypes.is_alone(row.digest, row.label):
            return row._replace(status=ONLY_OF_CLASS, pixels=None, why=f"no other fitted image is of class {name!r}")
        return row


def _is_image(value: Any) -> bool:
    import PIL.Image

    return isinstance(value, PIL.Image.Image) or (isinstance(value, Mapping) and {"bytes", "path"} <= value.keys())


def _raw(dataset: Dataset, image: str) -> Sequence[Any]:
    """The images as they are stored, read when asked for."""
    return dataset.with_format(None).select_columns([image]).cast_column(image, Image(decode=False))[image]


def _labels(dataset: Dataset, label: str) -> list[Any]:
    return dataset.with_format(None)[label][:]


def _require_single(labels: Sequence[Any]) -> None:
    if listed := [label for label in labels if isinstance(label, (list, dict))][:1]:
        raise ValueError(f"the label column must hold one class a row, got {listed[0]!r:.80}.")


def _label_indices(labels: Sequence[Any], classes: Sequence[str | int]) -> list[int | str]:
    """The index of the class of each label, or why there is none."""
    places, are_numbers = _places_of(tuple(classes))
    return [_label_index(label, places, len(classes), are_numbers) for label in labels]


@lru_cache(maxsize=8)  # `map` asks again for every row
def _places_of(classes: tuple[str | int, ...]) -> tuple[dict[str | int, int], bool]:
    """Index of every class by its name, as it is written and in small letters, and whether the names are numbers."""
    places = {name: place for place, name in enumerate(classes)}
    times = Counter(map(_plain, classes))
    plain = {_plain(name): place for place, name in enumerate(classes) if times[_plain(name)] == 1}
    return {**plain, **places}, all(isinstance(name, int) for name in classes)


def _label_index(value: Any, places: Mapping[str | int, int], num_classes: int, are_numbers: bool) -> int | str:
    if value is None or (value == -1 and -1 not in places):
        return MISSING_LABEL
    if isinstance(value, str):
        return places.get(value, places.get(_plain(value), UNKNOWN_LABEL))
    if are_numbers:
        return places.get(value, UNKNOWN_LABEL)
    return int(value) if isinstance(value, (int, np.integer)) and 0 <= value < num_classes else UNKNOWN_LABEL


def _plain(name: Any) -> Any:
    return name.strip().lower() if isinstance(name, str) else name


def _shown(names: Sequence[Any]) -> str:
    return f"{list(names[:4])}{' and more' if len(names) > 4 else ''}"
