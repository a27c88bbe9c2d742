"""Contenders of the benchmark: naive code, lm-evaluation-harness, hf_dlc, and a bare forward pass as the limit."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import transformers
from datasets import load_from_disk
from torch.nn.utils import prune
from transformers import AutoConfig, PreTrainedModel

from hf_dlc.masking import Masker
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.tasks.text.encoding import Encoding

from .meters import Memory, Stopwatch, masking_timed
from .options import Job
from .rows import encode, span_of


WARMUP_ROWS = 4
_HARNESS_BATCH_SIZES, _HARNESS_WARMUP_ROWS = (1, 8, 16), 16


class Contender(ABC):
    """
    A contender, which scores rows level by level.

    Args:
        job (`Job`):
            Rows and schedule.
        scorer ([`~hf_dlc.DLCScorer`]):
            Holds the model, in the dtype of the contender, and the tokenizer; only hf_dlc scores with it.
        memory (`Memory`):
            Started before the model was loaded.
    """

    time_has_masking = True  # or masks are set outside of the measured time

    def __init__(self, job: Job, scorer: DLCScorer, memory: Memory) -> None:
        self.job = job
        self.scorer = scorer
        self.model = scorer.model
        self.memory = memory
        self.masking = Stopwatch()
        self.dataset = load_from_disk(job.rows)
        self.rows = list(encode(scorer.processor, self.dataset, job.template))

    @abstractmethod
    def score(self, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Confidence and loss, `(levels, rows)`, of the first `count` rows; `None` where there is none."""

    def get_ready(self) -> dict[str, Any]:
        """Warm up, and say what was loaded."""
        self.score(min(WARMUP_ROWS, len(self.rows)))
        return {"weights_bytes": sum(parameter.nbytes for parameter in self.model.parameters())}

    def check(self) -> dict[str, Any]:
        """Scores for comparison, where the contender has any."""
        return {}

    def have_turn(self) -> dict[str, Any]:
        """Score all rows, and say how long it took."""
        self.masking = Stopwatch()
        self.memory.restart()
        start = time.perf_counter()
        confidence, loss = self.score(len(self.rows))
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds if self.time_has_masking else seconds - self.masking.seconds,
            "masking_seconds": self.masking.seconds,
            "peak_bytes": self.memory.peak,
            "scoring_peak_bytes": self.memory.since_restart,
            "confidence": None if confidence is None else confidence.tolist(),
            "loss": None if loss is None else loss.tolist(),
        }


class PlainlyMasked(Contender):
    """A contender that masks with what torch offers, from a saved copy of the weights."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.saved = copy.deepcopy(self.model.state_dict())

    def masked_levels(self) -> Iterator[float]:
        """The masked fractions in turn, the model masked with each."""
        for fraction in self.job.fractions:
            with self.masking:
                mask_smallest(self.model, fraction)
            yield fraction
            with self.masking:
                if fraction > 0:
                    self.model.load_state_dict(self.saved)


class Naive(PlainlyMasked):
    """Code as one writes it without thinking of speed: a row at a time, all logits, a Python loop over the tokens."""

    @torch.no_grad()
    def score(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        levels = [[self.score_row(row) for row in self.rows[:count]] for _ in self.masked_levels()]
        confidence, loss = np.moveaxis(np.array(levels), -1, 0)
        return confidence, loss

    @torch.no_grad()
    def check(self) -> dict[str, Any]:
        """
        Scores under the masks of hf_dlc.

        Of weights of the same magnitude, torch masks whichever its sort finds first. In a dequantised model many are
        the same, and then the scores differ by more than the arithmetic.
        """
        levels = []
        with Masker(self.model, masking="magnitude").session(self.job.fractions) as session:
            for level in range(len(self.job.fractions)):
                session.set_level(level)
                levels.append([self.score_row(row) for row in self.rows])
        confidence, loss = np.moveaxis(np.array(levels), -1, 0).tolist()
        return {"confidence": confidence, "loss": loss}

    def score_row(self, row: Encoding) -> tuple[float, float]:
        """Mean p(token) and mean -log p(token) of the target tokens."""
        ids = torch.from_numpy(row.input_ids).long()
        log_probs = torch.log_softmax(self.model(input_ids=ids[None]).logits[0].float(), dim=-1)
        confidence = loss = 0.0
        for place in np.flatnonzero(row.targets).tolist():
            log_prob = log_probs[place - 1, ids[place]].item()  # the token before predicts
            confidence += math.exp(log_prob)
            loss -= log_prob
        return confidence / row.target_tokens, loss / row.target_tokens


def mask_smallest(model: PreTrainedModel, fraction: float) -> None:
    """Mask the smallest weights of every linear layer but the head, as the documentation of torch shows it."""
    if fraction == 0:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            prune.l1_unstructured(module, "weight", amount=fraction)
            prune.remove(module, "weight")


class HfDlc(Contender):
    """hf_dlc from rows of text to columns: its time has the encoding in it, that of the others has not."""

    def score(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        with masking_timed(self.masking):
            scored = self.scorer.score(self.dataset.select(range(count)), num_threads=self.job.num_threads)
        if scored["dlc_tokens"][:] != [row.target_tokens for row in self.rows[:count]]:
            raise RuntimeError("hf_dlc scored other tokens than the others.")
        return np.array(scored["dlc_level_confidence"][:]).T, np.array(scored["dlc_level_loss"][:]).T


class Limit(Contender):
    """
    The body alone over the same tokens, once a level: no masks, no head, and no padding, because the rows are cut as
    one stream into rectangles of the mean length.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.budget = self.scorer.describe()["tokens_per_batch"]

    def score(self, count: int) -> tuple[None, None]:
        for _ in self.job.fractions:
            self.pass_through(self.rows[:count])
        return None, None

    def seconds_a_level(self, rows: Sequence[Encoding] | None = None) -> float:
        """Time that rows, by default all, take once."""
        start = time.perf_counter()
        self.pass_through(self.rows if rows is None else rows)
        return time.perf_counter() - start

    @torch.inference_mode()
    def pass_through(self, rows: Sequence[Encoding]) -> None:
        """All tokens through the body, once."""
        rows = [row for row in rows if row.length]
        stream = torch.from_numpy(np.concatenate([row.input_ids for row in rows])).long()
        for batch in rectangles(stream, max(1, round(len(stream) / len(rows))), self.budget):
            self.model.base_model(input_ids=batch, use_cache=False)


def rectangles(stream: torch.Tensor, length: int, budget: int) -> Iterator[torch.Tensor]:
    """Cut tokens into batches of rows of a length, under a budget; every token once, the last row may be short."""
    rows, whole = max(1, budget // length), len(stream) // length * length
    yield from stream[:whole].view(-1, length).split(rows)
    if whole < len(stream):
        yield stream[None, whole:]


class Harness(PlainlyMasked):
    """
    The log-likelihoods of lm-evaluation-harness on the same token ids, with the batch size that suits it best. It
    knows no masks: they are set as in the naive code, and their time is not counted.
    """

    time_has_masking = False

    def __init__(self, *arguments: Any) -> None:
        from lm_eval.models.huggingface import HFLM

        super().__init__(*arguments)
        longest = max(row.length for row in self.rows)
        self.harness = HFLM(self.model, tokenizer=self.scorer.processor, batch_size=1, max_length=longest)

    def get_ready(self) -> dict[str, Any]:
        """Warm up with each batch size and keep the fastest."""
        rows = self.rows[:_HARNESS_WARMUP_ROWS]
        self.log_likelihoods(rows[:WARMUP_ROWS])
        seconds = {}
        for size in _HARNESS_BATCH_SIZES:
            self.harness.batch_size_per_gpu = size
            start = time.perf_counter()
            self.log_likelihoods(rows)
            seconds[size] = time.perf_counter() - start
        self.harness.batch_size_per_gpu = min(seconds, key=seconds.get)
        return {**super().get_ready(), "batch_size": self.harness.batch_size_per_gpu}

    def score(self, count: int) -> tuple[None, np.ndarray]:
        return None, np.array([-self.log_likelihoods(self.rows[:count]) for _ in self.masked_levels()])

    def log_likelihoods(self, rows: Sequence[Encoding]) -> np.ndarray:
        """Mean log-likelihood a target token of each row; the harness gives the sum."""
        requests = []
        for row in rows:
            ids, span = row.input_ids.tolist(), span_of(row)
            requests.append((None, ids[: span.start], ids[span]))
        sums = [log_likelihood for log_likelihood, _ in self.harness._loglikelihood_tokens(requests, True)]
        return np.array(sums) / [row.target_tokens for row in rows]


CONTENDERS: dict[str, type[Contender]] = {"naive": Naive, "harness": Harness, "hf_dlc": HfDlc, "limit": Limit}
LABELS = {
    "naive": "naive code",
    "harness": "lm-evaluation-harness",
    "hf_dlc": "hf_dlc",
    "limit": "bare forward pass (the limit)",
}


def load_contender(name: str, job: Job) -> Contender:
    """Load the model for a contender, after everything is imported."""
    if name == "harness":
        import lm_eval.models.huggingface  # noqa: F401
    return CONTENDERS[name](job, *load_scorer(job))


def load_scorer(job: Job) -> tuple[DLCScorer, Memory]:
    """The scorer of a job, and the memory since before its model was loaded."""
    # Import the code of the model ahead: it belongs to the imports, not to what the model takes.
    transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(AutoConfig.from_pretrained(job.model)), None)
    memory = Memory()
    options = {name: getattr(job, name) for name in ("dtype", "schedule", "masking", "template")}
    return DLCScorer.from_pretrained(job.model, device="cpu", keep_levels=True, **options), memory


def has_harness() -> bool:
    """Whether lm-evaluation-harness is installed."""
    return find_spec("lm_eval") is not None
