"""What is measured of each family: its scores against the model's own loss, in every company and by every way."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ViTImageProcessor
from transformers.pytorch_utils import Conv1D

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.tasks.text.task import CausalLMTask
from tests.conftest import CHATML, VOCAB_SIZE, build_tokenizer
from tests.insides import computes_side_by_side, masker_of, task_of
from tests.laws.matrix.families import (
    BODIES,
    CAUSAL,
    CLASSES,
    EXPERTS,
    GATES,
    IMAGE_SIZE,
    IMAGES,
    POSITIONS,
    UNSHIFTED,
)


SCHEDULE = "0, 0.1, 0.3"
TOLERANCE = 1e-4  # nats of a row's loss
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_TEMPLATE = f"{{% if messages[0]['role'] != 'system' %}}{{{{ '{_SYSTEM}' }}}}{{% endif %}}{CHATML}".replace(
    "\n", "\\n"
)

# All begin with the head of the template, none is longer than the positions of a family; enough to share the head.
ROWS = [
    {"instruction": f"Say {i} {'twice ' * (i % 3)}", "output": f"{i}, " * (1 + 5 * i % 7) + "so."} for i in range(8)
]


@dataclass
class Result:
    """What was found of a family; NaN is what was not measured."""

    family: str
    verdict: str = "ok"  # or "refused: ..." with the message
    level_0: float = math.nan  # largest difference of a row's unmasked loss from the model's own
    alone: float = math.nan  # of its losses at masked levels in a batch from those of the row alone
    by_score: float = math.nan
    row_by_row: float = math.nan
    shared: float = math.nan
    at_limit: float = math.nan
    causal: float = math.nan  # how much later tokens change what comes before them
    notes: list[str] = field(default_factory=list)  # ways, limits
    wrong: list[str] = field(default_factory=list)  # what is not as promised
    seconds: float = 0.0

    @property
    def numbers(self) -> dict[str, float]:
        """Differences that must be rounding only."""
        names = ("level_0", "alone", "by_score", "row_by_row", "shared", "at_limit")
        return {name: getattr(self, name) for name in names}

    @property
    def faults(self) -> list[str]:
        """All that is not as promised."""
        if self.verdict != "ok":
            return self.wrong
        over = [f"{name} off by {value:.2g}" for name, value in self.numbers.items() if value > TOLERANCE]
        return [*over, *self.wrong]


def measure(family: str) -> Result:
    """All measurements of a language or image family."""
    return measure_causal(family) if family in CAUSAL else measure_image(family)


def measure_causal(name: str, model: PreTrainedModel | None = None) -> Result:
    """All measurements of a language family."""
    start = time.process_time()
    result = Result(name)
    model = CAUSAL[name]() if model is None else model
    unused = copy.deepcopy(model)  # some prepare themselves when they first run
    scorer = _accepted(result, lambda: DLCScorer(model, _tokenizer(), _config()))
    with torch.no_grad():
        model(input_ids=torch.tensor([_token_row(20)["input_ids"]]), use_cache=False)
    before = _bits(model)
    if scorer is not None:
        _measure_losses(result, model, scorer, unused)
    if scorer is not None and result.verdict == "ok":
        result.at_limit = _attempt(result, "limit", lambda: _measure_limit(result, model))
        _measure_masks(result, model, scorer)
    _check_restored(result, model, before)
    result.seconds = time.process_time() - start
    return result


def _config(**options: Any) -> DLCConfig:
    return DLCConfig(**{"schedule": SCHEDULE, "keep_levels": True, "max_length": 4 * POSITIONS, **options})


def _tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(_TEMPLATE)


def _accepted(result: Result, make: Callable[[], DLCScorer]) -> DLCScorer | None:
    try:
        return make()
    except ValueError as error:
        result.verdict = f"refused: {error}"
    return None


def _attempt(result: Result, what: str, measure: Callable[[], float]) -> float:
    """What `measure` finds; NaN, and the error among what is wrong, if it fails."""
    try:
        return measure()
    except Exception as error:
        text = f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
        result.wrong.append(f"{what}: {text}")
        return math.nan


def _measure_losses(result: Result, model: PreTrainedModel, scorer: DLCScorer, unused: PreTrainedModel) -> None:
    dataset = Dataset.from_list(ROWS)
    batch = dataset[:]
    try:
        with _unshared():
            batched = _losses(scorer(batch))
    except ValueError as error:
        result.verdict = f"refused: {error}"
        return
    except Exception as error:
        result.wrong.append(f"batch: {type(error).__name__}: {str(error)[:150]}")
        return
    tokenized = scorer.tokenize(dataset)
    rows = [(row["input_ids"], row["labels"]) for row in tokenized]
    result.causal = _leak(model, rows[0][0])
    if result.causal > TOLERANCE:
        result.wrong.append(f"later tokens change what comes before them by {result.causal:.2g}")
    own = own_losses(model, scorer, rows)
    result.level_0 = _gap(batched[:, 0], own[:, 0])
    result.alone = _gap(batched[:, 1:], own[:, 1:])
    if np.ptp(own[:, 0]) < 0.05 or np.median(np.abs(own[:, 0] - own[:, 2])) < 1e-3:
        result.wrong.append("rows or levels are too much alike to tell anything")
    result.by_score = _attempt(
        result, "score", lambda: _with_unshared(lambda: _gap(_of(scorer.score(dataset, num_threads=1)), own))
    )
    by_row = DLCScorer(unused, _tokenizer(), _config())
    result.row_by_row = _attempt(
        result, "row by row", lambda: _with_unshared(lambda: _gap(_losses_of_rows(by_row), own))
    )
    sharer = DLCScorer(model, _tokenizer(), _config())
    result.shared = _attempt(
        result,
        "shared head",
        lambda: max(
            _gap(_losses(sharer(batch)), own),
            _gap(_of(sharer.score(dataset, num_threads=1)), own),
            _gap(_losses_of_rows(sharer), own),
        ),
    )
    result.notes.append("head shared" if task_of(sharer).shares(1) else "head not shared")
    result.notes.append("levels side by side" if computes_side_by_side(by_row) else "levels in turn")


def _losses_of_rows(scorer: DLCScorer) -> np.ndarray:
    return np.array([scorer(row)["dlc_level_loss"] for row in ROWS])


def _losses(columns: dict[str, Any]) -> np.ndarray:
    return np.array(columns["dlc_level_loss"], dtype=np.float64)


def _of(scored: Dataset) -> np.ndarray:
    return np.array(scored["dlc_level_loss"][:], dtype=np.float64)


def _gap(found: np.ndarray, expected: np.ndarray) -> float:
    gaps = np.abs(np.asarray(found, dtype=np.float64) - expected)
    return float(gaps.max()) if np.isfinite(gaps).all() else math.inf


@contextmanager
def _unshared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLMTask, "shares", lambda self, shared_head: False)
        yield


def _with_unshared(measure: Callable[[], float]) -> float:
    with _unshared():
        return measure()


def own_losses(model: PreTrainedModel, scorer: DLCScorer, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
    """Of shape `(rows, levels)`: what the model itself says of each row alone under the same masks."""
    found = np.empty((len(rows), len(scorer.schedule_)))
    remembers = "dynamic" in str(model.config)  # rotary positions that stay as the longest row left them
    with torch.no_grad(), masker_of(scorer).session(scorer.schedule_) as session:
        for level in range(found.shape[1]):
            session.set_level(level)
            found[:, level] = [own_loss(copy.deepcopy(model) if remembers else model, *row) for row in rows]
    return found


def own_loss(model: PreTrainedModel, ids: list[int], labels: list[int]) -> float:
    """The model's own loss; of families that shift no labels, with labels that are shifted already."""
    if model.config.model_type in UNSHIFTED:
        ids, labels = ids[:-1], labels[1:]
    return model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), use_cache=False).loss.item()


def _leak(model: PreTrainedModel, ids: list[int]) -> float:
    """How much other tokens at the end, one or nine, change the log-probabilities before them."""
    changes = []
    with torch.no_grad():
        plain = _log_probs(model, torch.tensor([ids]))
        for count in (1, 9):
            kept = len(ids) - count
            changed = torch.tensor([[*ids[:kept], *((token + 7) % VOCAB_SIZE for token in ids[kept:])]])
            changes.append((plain - _log_probs(model, changed))[:, :kept].abs().max().item())
    return max(changes)


def _log_probs(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)


# ---- the longest row ------------------------------------------------------------------------------------------------


def _measure_limit(result: Result, model: PreTrainedModel) -> float:
    """A row as long as the model takes is scored, together with a short one; one token more is refused in words."""
    limit = _limit(model)
    result.notes.append(f"limit {limit}" if limit else "no limit")
    longest = limit or POSITIONS + 5
    scorer = DLCScorer(model, _tokenizer(), _config(schedule="0"))
    if limit and (wrong := _wrong_beyond(scorer, limit)):
        result.wrong.append(f"a row of {limit + 1} tokens {wrong}")
    rows = [_token_row(longest), _token_row(20)]
    own = own_losses(model, scorer, [(row["input_ids"], row["labels"]) for row in rows])
    batch = {key: [row[key] for row in rows] for key in rows[0]}
    alone = np.array([scorer(row)["dlc_level_loss"] for row in rows])
    return max(_gap(_losses(scorer(batch)), own), _gap(alone, own))


def _wrong_beyond(scorer: DLCScorer, limit: int) -> str:
    """What becomes of a row that is too long, unless it is told how many tokens there may be."""
    try:
        scorer(_token_row(limit + 1))
    except ValueError as error:
        return "" if f"max_length={limit}" in str(error) else f"is refused in other words: {str(error)[:150]}"
    except Exception as error:
        return f"ends in {type(error).__name__}: {str(error)[:120]}"
    return "is scored"


def _token_row(length: int) -> dict[str, list[int]]:
    ids = [3 + (7 * place) % 300 for place in range(length)]
    return {"input_ids": ids, "labels": [-100] * 10 + ids[10:]}


def _limit(model: PreTrainedModel) -> int:
    """Tokens of the longest row that the model itself takes; 0 if there is no end near `POSITIONS`."""
    found = 0
    for length in range(POSITIONS - 4, POSITIONS + 5):
        try:
            with torch.no_grad():
                model(input_ids=torch.tensor([_token_row(length)["input_ids"]]), use_cache=False)
        except Exception:  # whatever a family raises
            return found
        found = length
    return 0


# ---- masks ----------------------------------------------------------------------------------------------------------


def _measure_masks(result: Result, model: PreTrainedModel, scorer: DLCScorer) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    masked = {names[id(target.parameter)] for target in masker_of(scorer).targets}
    expected = {names[id(parameter)] for parameter in weights_to_mask(model)}
    if over := sorted(masked - expected):
        result.wrong.append(f"masked against the rule: {_short(over)}")
    if missed := sorted(expected - masked):
        result.wrong.append(f"not masked: {_short(missed)}")


def weights_to_mask(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """
    The rule, told by sizes and classes: every linear layer, convolution and expert below the head.

    What has as many outputs as the vocabulary (or the classes) is a head; as many as there are experts, or one, a
    router or gate. Patch embeddings and norms are known by the classes of what they are a part of.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        path = name.split(".") if name else []
        owners = [type(modules[".".join(path[:end])]).__name__ for end in range(len(path))]
        if isinstance(module, nn.Linear | Conv1D | nn.Conv2d):
            if not (_is_head_router_or_stem(module) or _is_part_of_others(path, owners)):
                yield module.weight
        elif "Expert" in type(module).__name__:
            parameters = module.named_parameters(recurse=False)
            yield from (weight for key, weight in parameters if weight.dim() >= 2 and "bias" not in key)


def _is_head_router_or_stem(module: nn.Linear | Conv1D | nn.Conv2d) -> bool:
    outputs, inputs = reversed(module.weight.shape[:2]) if isinstance(module, Conv1D) else module.weight.shape[:2]
    is_router = outputs in (1, EXPERTS, *GATES) and inputs > outputs and not isinstance(module, nn.Conv2d)
    reads_patches = isinstance(module, nn.Conv2d) and inputs == 3 and module.stride == module.kernel_size
    return outputs in (VOCAB_SIZE, CLASSES) or is_router or reads_patches


def _is_part_of_others(path: Sequence[str], owners: Sequence[str]) -> bool:
    if "downsample" in path:  # FocalNet's are of the class of its patch embeddings
        return False
    is_named = "patch_embed" in path[-1] or "vision_embed" in path[-1]  # of BLT, of Fuyu
    return is_named or any(_NEVER_MASKED.search(owner) for owner in owners)


# Of A.X K2, whose norms are made of layers. (DBRX's `NormAttentionNorm` holds attention, and is none.)
_NEVER_MASKED = re.compile("PatchEmbed|ConvEmbed|PoolFormerEmbeddings|Router|RMSNorm$")


def _short(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _bits(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of what a checkpoint holds; tables that a model makes anew as it needs them are not its weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _check_restored(result: Result, model: PreTrainedModel, before: dict[str, torch.Tensor]) -> None:
    now = model.state_dict()
    changed = [name for name in before if name not in now or not _same_bits(now[name], before[name])]
    if changed or now.keys() - before.keys():
        result.wrong.append(f"weights changed: {_short([*changed, *(now.keys() - before.keys())])}")


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    first, second = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return torch.equal(first, second)


# ---- images ---------------------------------------------------------------------------------------------------------


def images() -> Dataset:
    """Nine small noisy pictures of three classes."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 200, size=(40, 40, 3)) // (1 + i % 3) + 20 * (i % 3) for i in range(9)]
    features = Features({"image": Image(), "label": ClassLabel(names=[f"LABEL_{i}" for i in range(CLASSES)])})
    columns = {"image": [Pillow.fromarray(p.astype(np.uint8)) for p in pictures], "label": [i % 3 for i in range(9)]}
    return Dataset.from_dict(columns, features)


def measure_image(name: str, model: PreTrainedModel | None = None) -> Result:
    """All measurements of an image family: of its classifier, or of a body with prototypes."""
    start = time.process_time()
    result = Result(name)
    model = {**IMAGES, **BODIES}[name]() if model is None else model
    before = _bits(model)
    processor = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    scorer = _accepted(result, lambda: DLCScorer(model, processor, _config()))
    if scorer is not None:
        _measure_image_losses(result, model, scorer, images())
    if scorer is not None and result.verdict == "ok":
        _measure_masks(result, model, scorer)
    _check_restored(result, model, before)
    result.seconds = time.process_time() - start
    return result


def _measure_image_losses(result: Result, model: PreTrainedModel, scorer: DLCScorer, dataset: Dataset) -> None:
    name = (
        "confidence" if scorer.needs_fit else "loss"
    )  # prototypes are sure to 20 nats and more: that is all rounding

    def values(columns: Any) -> np.ndarray:
        return np.array(columns[f"dlc_level_{name}"][:], dtype=np.float64)

    try:
        if scorer.needs_fit:
            scorer.fit(dataset, num_threads=1)
        batched = values(scorer(dataset[:]))
    except ValueError as error:
        result.verdict = f"refused: {error}"
        return
    except Exception as error:
        result.wrong.append(f"batch: {type(error).__name__}: {str(error)[:150]}")
        return
    alone = np.concatenate([values(scorer(dataset[i : i + 1])) for i in range(len(dataset))])
    result.alone = _gap(batched, alone)
    result.row_by_row = _attempt(
        result, "row by row", lambda: _gap(np.array([scorer(row)[f"dlc_level_{name}"] for row in dataset]), alone)
    )
    result.by_score = _attempt(result, "score", lambda: _gap(values(scorer.score(dataset, num_threads=1)), alone))
    if not scorer.needs_fit:
        result.level_0 = _gap(alone, _own_image_losses(model, scorer, dataset))
    if np.ptp(alone[:, 0]) < 1e-3 or np.abs(alone[:, 0] - alone[:, 2]).max() < 1e-4:
        result.wrong.append("rows or levels are too much alike to tell anything")
    result.notes.append(f"{task_of(scorer).head}, {task_of(scorer).pooling}" if scorer.needs_fit else "classifier")
    result.notes.append("levels side by side" if computes_side_by_side(scorer) else "levels in turn")


def _own_image_losses(model: PreTrainedModel, scorer: DLCScorer, dataset: Dataset) -> np.ndarray:
    pixels = [scorer.processor(images=image, return_tensors="pt")["pixel_values"] for image in dataset["image"]]
    labels = dataset["label"][:]
    found = np.empty((len(labels), len(scorer.schedule_)))
    with torch.no_grad(), masker_of(scorer).session(scorer.schedule_) as session:
        for level in range(found.shape[1]):
            session.set_level(level)
            for row, (pixel_values, label) in enumerate(zip(pixels, labels, strict=True)):
                found[row, level] = _own_image_loss(model, pixel_values, torch.tensor([label]))
    return found


def _own_image_loss(model: PreTrainedModel, pixels: torch.Tensor, label: torch.Tensor) -> float:
    if model.config.model_type == "pp_lcnet":  # knows no loss, and calls its logits hidden states
        return nn.functional.cross_entropy(model(pixel_values=pixels).last_hidden_state, label).item()
    return model(pixel_values=pixels, labels=label).loss.item()
