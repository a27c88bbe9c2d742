"""A causal language model as a task: forward pass over a micro-batch, measures of each row's target tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from hf_dlc.scores.base import Asked, Features, Measure
from hf_dlc.scores.dlc import CONFIDENCE
from hf_dlc.tasks.base import BatchRules, RowMeasures, RowsInView, Share
from hf_dlc.tasks.features import finished, position_weights, split_asked
from hf_dlc.tasks.kinds import CAUSAL_LM
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.utils.rounding import bound_ahead, bound_of, epsilon_of, is_rounding, relative_change, rounded_input

from .encoding import Encoding, RowEncoder
from .gradient import GRADIENT_SIZE, GradientSketch
from .guard import Guard, made_up, special_tokens, too_long
from .head import OutputHead
from .packed import PackedRows, block_of, packed
from .padding_free import run_padding_free
from .positions import ChangingRopes, learned_positions, rotary_rules
from .preview import preview_text
from .sentences import SentenceEncoder, TextPair
from .shared_head_cache import as_shared_head, holds_all_tokens, mask_behind
from .tables import block_of_table, table_of
from .views import VIEWS, Alone, Views


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


logger = logging.getLogger(__name__)

_ROWS_PER_ENCODING = 1000

_SAMPLE_TOKENS = 23

# Tokens behind a shared head, of rows that are computed with and without its keys and values from elsewhere.
_BEHIND_SHARED_HEAD = (9, 17, 4)

# Tokens of rows that are computed end to end and side by side.
_END_TO_END = (40, 40, 9)
_ANY_LENGTH = 2**31 - 1

# Measured in the place of the confidence where token_mean is "geometric": exp of its mean then is the confidence.
_LOG_CONFIDENCE = Measure(CONFIDENCE.name, of_token=lambda log_probs: log_probs)


class CausalLMTask:
    """
    Scores the target tokens of encoded rows with a causal language model.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model with a language modelling head.
        encoder ([`RowEncoder`]):
            Turns rows into token ids and target marks.
        token_mean (`str`, *optional*, defaults to `"arithmetic"`):
            Confidence is the mean of p(token) over the target tokens (`"arithmetic"`), or exp(-loss) (`"geometric"`).
        alone (`str`, *optional*, defaults to `"header"`):
            What a response without its prompt stands behind, see [`Views`].
        first_tokens (`int`, *optional*, defaults to 16):
            Target tokens of each response in the views of beginnings.
        sentence_encoder (`str`, *optional*):
            Sentence encoder of the view of texts; by default there is none.

    Raises:
        ValueError: If the model is not a decoder-only language model.
    """

    kind = CAUSAL_LM
    views = VIEWS
    measurable = frozenset({"token", "distribution", "pooled"})
    poolings = ("position", "mean", "response", "gradient")
    default_schedules: Mapping[str, tuple[float, ...]] = {}
    learned = None

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: RowEncoder,
        token_mean: str = "arithmetic",
        alone: Alone = "header",
        first_tokens: int = 16,
        sentence_encoder: str | None = None,
    ) -> None:
        if not isinstance(model, PreTrainedModel):
            raise ValueError(
                f"the model must be a transformers PreTrainedModel, got {type(model).__name__}. Pass what it wraps: "
                "`model.module`, or for adapters `model.merge_and_unload()`."
            )
        check_architecture(model.config, type(model).__name__)
        self.model = model
        self.encoder = encoder
        self._read_elsewhere: tuple[DatasetReading, ...] = ()
        self.token_mean = token_mean
        self._views = Views(encoder, alone, first_tokens)
        self._sentences = sentence_encoder and SentenceEncoder(sentence_encoder, model.device)
        self._head = OutputHead(model, _body_of(model))
        self._guard: tuple[object, Guard] | None = None  # and the weights that it has measured
        self._shares: dict[tuple[int, bool], bool] = {}  # by head, and whether rows go end to end
        self._padding_free_up_to = 0
        self._look_at_positions()

    def _look_at_positions(self) -> None:
        """Find out what can be said of the positions without a row."""
        self._ropes = ChangingRopes(self.model)
        self._rotary_rules = rotary_rules(self.model)
        learned = learned_positions(self.model)
        self._rules = self._rotary_rules._replace(positions=None if learned == math.inf else int(learned))

    @property
    def _body(self) -> PreTrainedModel:
        """The body, which the head calls."""
        return self._head.body

    @property
    def rules(self) -> BatchRules:
        """Rules of the micro-batches that the model may be given, as far as `check` has found out."""
        return self._rules

    @rules.setter
    def rules(self, rules: BatchRules) -> None:
        self._rules = rules  # as another process has found out

    @property
    def num_shared_heads(self) -> int:
        """Heads of the template, the empty one included."""
        return len(self.encoder.shared_heads)

    @property
    def reading(self) -> DatasetReading | None:
        """The reading of the rows; `None` before the first one."""
        known = [one for one in (self.encoder.reading, *self._read_elsewhere) if one is not None]
        return known[0].with_others(known[1:]) if known else None

    @property
    def is_dated(self) -> bool:
        """Some templates write the day into every row."""
        return "strftime_now" in (self.encoder.template_text or "")

    @cached_property
    def probe(self) -> RowEncoder:
        """An encoder of instruction rows as the options say, without a function that expects rows of its own."""
        template = "auto" if callable(self.encoder.template) else self.encoder.template
        return RowEncoder(self.encoder.tokenizer, template, self.encoder.max_length, says=False)

    def encode_rows(self, rows: Mapping[str, Any]) -> tuple[list[Encoding], bool]:
        """Encode a row or a batch; the second value is whether it was a batch."""
        examples, is_batch = self.encoder.rows_of(rows)
        return self.encode(examples), is_batch

    def encode_dataset(self, dataset: Dataset, share: Share | None = None) -> PackedRows:
        """Encode all rows, in order, on every process: that is faster than to hand over their tokens."""
        self.begin_dataset()
        return packed(self._encoded(dataset))

    def _encoded(self, dataset: Dataset) -> Iterator[Encoding]:
        return (row for rows in self.encoder.batches_of(dataset, _ROWS_PER_ENCODING) for row in self.encode(rows))

    @property
    def encoded_as(self) -> dict[str, Any] | None:
        """Template and layout, and what the model takes; `None` with a callable, whose code nobody can compare."""
        if callable(self.encoder.template):
            return None
        most_tokens = self.rules.positions
        return {**self.encoder.describe(), "embeddings": self._num_embeddings, "positions": most_tokens}

    def begin_dataset(self) -> None:
        """Forget what was said of the rows so far: the next ones are those of another dataset."""
        self.encoder.begin_dataset()
        self._read_elsewhere = ()

    def encode_part(self, dataset: Dataset) -> list[Encoding]:
        """Encode some rows of the dataset, in order."""
        return list(self._encoded(dataset))

    def take_readings(self, readings: Sequence[DatasetReading]) -> None:
        """Take what other processes, or an earlier run, have read of the dataset."""
        self._read_elsewhere = tuple(readings)

    def to_table(self, rows: Sequence[Encoding]) -> pa.Table:
        """The rows as a table of Arrow."""
        return table_of(block_of(rows))

    def from_table(self, table: pa.Table) -> PackedRows:
        """The rows of a table, whose memory they share."""
        head_lengths = [len(head) for head in self.encoder.shared_heads]
        return PackedRows([block_of_table(table, self._num_embeddings, head_lengths)])

    def preview(self, dataset: Dataset) -> str:
        """The rows as they are scored, for people."""
        encoder = self.encoder.for_preview()  # what is known of the dataset is not what a few of its rows tell
        batches = encoder.batches_of(dataset, _ROWS_PER_ENCODING)
        shown = preview_text(encoder.tokenizer, [row for rows in batches for row in encoder.encode(rows)])
        return f"{encoder.reading}\n{shown}" if encoder.reading else shown

    def tokenize(self, dataset: Dataset) -> tuple[list[Encoding], dict[str, list[Any]]]:
        """All rows, and the columns of those that can be scored, for a trainer."""
        rows = self.encode_dataset(dataset)
        places = [place for place, row in enumerate(rows) if row.length]
        labels = [np.where(rows[place].targets, rows[place].input_ids, -100) for place in places]
        return rows, {"input_ids": [rows[place].input_ids for place in places], "labels": labels, "row": places}

    def view(self, rows: Sequence[Encoding], view: str) -> RowsInView:
        """The rows in one of `views`, see [`Views`]."""
        return self._views.of(rows, view)

    def feed(self, rows: Sequence[Encoding]) -> Iterator[Encoding]:
        """The rows: all that they need is in them."""
        return iter(rows)

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[Encoding]:
        """
        Encode rows, in order; a row that cannot be scored comes back with its reason as status.

        Raises:
            ValueError: If the tokenizer writes ids that the model has no embedding for, if a row is longer than the
                positions the model has learned, and what the encoder raises.
        """
        encodings = self.encoder.encode(rows)
        largest = max((int(row.input_ids.max()) for row in encodings if row.length), default=0)
        known = self._num_embeddings
        if largest >= known:
            raise ValueError(
                f"the tokenizer wrote the token id {largest}, but {type(self.model).__name__} has only {known} "
                "embeddings. Use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))."
            )
        longest = max((row.length for row in encodings), default=0)
        if longest > self.rules.most_tokens:
            raise ValueError(too_long(longest, self.rules.most_tokens, type(self.model).__name__))
        return encodings

    @property
    def _num_embeddings(self) -> int:
        return self.model.get_input_embeddings().weight.shape[0]

    adapter_task = "CAUSAL_LM"
    why_untrainable = None

    def training_batch(self, rows: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Token ids, attention mask and labels, padded on the right, as a trainer would hand them to the model."""
        length = max(row.length for row in rows)
        ids = _pad([row.input_ids for row in rows], length, torch.int64)
        targets = _pad([row.targets for row in rows], length, torch.bool)
        mask = _pad([np.ones(row.length) for row in rows], length, torch.int64)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.where(targets, -100)}
        return {name: values.to(self._device) for name, values in batch.items()}

    @torch.inference_mode()
    def check(self, longest: int, weights: object) -> None:
        """
        Measure whether the model reads from left to right, and alone as in a batch; see [`Guard`].

        Raises:
            ValueError: If it does not, if its logits are not those of its last hidden states, or if it has no
                positions for `longest` tokens.
        """
        if self._guard is None or self._guard[0] != weights:
            self._shares.clear()
            self._look_at_positions()
            guard = Guard(lambda ids: self._run_body(ids, use_cache=False).last_hidden_state, self.model, self._rules)
            guard.check(0)
            self._rules = guard.rules
            self._check_logits()
            self._guard = weights, guard
            self._padding_free_up_to = self._find_padding_free(guard)
        guard = self._guard[1]
        guard.check(longest)
        self._rules = guard.rules._replace(padding_free_up_to=self._padding_free_up_to)

    def _find_padding_free(self, guard: Guard) -> int:
        """
        Tokens up to which rows may go end to end; 0 where none may.

        They may on a CPU: elsewhere the attention to rows of each length would be a launch of its own. They may not
        beyond a number at which the model may begin to compute otherwise, such as a window, of which rows end to end
        would know nothing.
        """
        if self._device.type != "cpu" or not self._attends_by_sdpa or guard.rules.alone_beyond == 0:
            return 0
        up_to = int(min(*guard.turns[:1], guard.rules.plain_up_to, guard.rules.most_tokens, _ANY_LENGTH))
        counts = [min(count, up_to) for count in _END_TO_END]
        if counts[0] < _END_TO_END[-1]:
            return 0
        rows = [self._made_up_row(count, place) for place, count in enumerate(counts)]
        try:
            if self._is_the_same(rows, partial(self._end_to_end, rows)) and self._keeps_apart(rows):
                return up_to
        except RuntimeError as error:  # without the memory to measure it, rows go as they always can
            if not should_reduce_batch_size(error):
                raise
        logger.info("%s takes rows side by side, with padding", type(self.model).__name__)
        return 0

    @property
    def _attends_by_sdpa(self) -> bool:
        return self._body.config._attn_implementation == "sdpa"

    def _made_up_row(self, count: int, seed: int) -> Encoding:
        return Encoding(self._made_up(count, seed=seed + 1), np.arange(count) > 0, "ok")

    def _end_to_end(self, rows: Sequence[Encoding]) -> RowMeasures:
        with self._end_to_end_up_to(max(row.length for row in rows)):
            return self.forward(rows)

    def _keeps_apart(self, rows: Sequence[Encoding]) -> bool:
        """
        Whether rows end to end know nothing of the row before them: it is made another one.

        Nothing else differs, so that in half precision this tells a convolution or a recurrent state from rounding
        where a comparison with rows side by side does not.
        """
        others = [self._made_up_row(rows[0].length, seed=len(rows)), *rows[1:]]
        first = rows[0].target_tokens
        found, expected = (self._end_to_end(some).states[first:] for some in (others, rows))
        with self.rounded() as epsilon:
            bound = bound_ahead(bound_of(self._end_to_end(rows).states[first:], expected, epsilon), epsilon)
        return float(relative_change(found, expected).max()) <= bound

    @contextmanager
    def _end_to_end_up_to(self, tokens: int) -> Iterator[None]:
        """Context in which rows of up to so many tokens go end to end, and no others."""
        rules = self._rules
        self._rules = rules._replace(padding_free_up_to=tokens)
        try:
            yield
        finally:
            self._rules = rules

    def _check_logits(self) -> None:
        """Whether the model's own logits are what its head makes of the states that are scored."""
        [row] = self.samples()
        ids = torch.from_numpy(row.input_ids)[None].to(self._device)
        with self._ropes.fresh():
            expected = self.model(input_ids=ids, use_cache=False).logits[0]
        found = self._logits_of(ids)
        with self.rounded() as epsilon:
            rounded = self._logits_of(ids)
        if found is None or not is_rounding(expected, found, rounded, epsilon):
            raise ValueError(
                f"{type(self.model).__name__} does not compute its logits from the last hidden states of its body "
                "alone; DLC needs that."
            )

    def _logits_of(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Logits of the head for a row, `(1, tokens)`; `None` if its states are not enough for it."""
        outputs = self._run_body(input_ids, use_cache=False)
        try:
            return self._head.logits(outputs.last_hidden_state, type(outputs))[0]
        except (AttributeError, LookupError, TypeError) as error:
            logger.debug("no logits of hidden states: %s", error)
            return None

    def features_size(self, pooling: str) -> int:
        """Size of a gradient, or of the last hidden states, which is not that of the embeddings in all models."""
        if pooling == "gradient":
            return GRADIENT_SIZE
        return self.forward(self.samples()).states.shape[1]

    def samples(self) -> list[Encoding]:
        """A made-up row, the same in every process."""
        count = int(min(_SAMPLE_TOKENS, self.rules.most_tokens))
        ids = self._made_up(count)
        return [Encoding(ids, np.arange(count) > count // 2, "ok")]

    def _made_up(self, count: int, seed: int = 1) -> np.ndarray:
        size = self.model.get_input_embeddings().weight.shape[0]
        return made_up(count, size, special_tokens(self.model.config.to_dict()), seed)

    @contextmanager
    def rounded(self) -> Iterator[float]:
        """Context in which the input of the model is changed by one rounding; yields the size of the rounding."""
        epsilon = epsilon_of(self.model)
        with rounded_input(self.model.get_input_embeddings(), epsilon):
            yield epsilon

    def describe(self) -> dict[str, Any]:
        """What of the template and the layout, and of a sentence encoder, changes a score."""
        template = {"template": self.encoder.describe()}
        if not self._sentences:
            return template
        return {**template, "encoder": {"name": self._sentences.name, "digest": self._sentences.digest}}

    def shares(self, shared_head: int) -> bool:
        """
        Whether the keys and values of a shared head can be computed once and used by all rows that begin with it.

        They cannot where a layer keeps something else than the keys and values of all tokens, such as sliding windows
        and recurrent states. Nor can they where a model goes wrong with keys from elsewhere: a sample row tells.
        """
        case = shared_head, self.rules.padding_free_up_to > 0
        if case not in self._shares:
            self._shares[case] = shared_head != 0 and self._gives_the_same(shared_head)
        return self._shares[case]

    def _gives_the_same(self, shared_head: int) -> bool:
        head = self.encoder.shared_heads[shared_head]
        if self.rules.plain_up_to < len(head) or self._rotary_rules != BatchRules():
            return False  # what the model makes of a shared head depends on how long the row is
        tails = [self._made_up(count, seed=count) for count in _BEHIND_SHARED_HEAD]
        ids = [np.concatenate([head, tail]).astype(head.dtype) for tail in tails]
        rows = [Encoding(row, np.arange(len(row)) > len(head), "ok", shared_head, len(head)) for row in ids]

        def behind() -> RowMeasures:
            return self.forward(rows, shared_head=self.run_shared_head(shared_head))

        up_to, longest = self.rules.padding_free_up_to, max(row.length for row in rows)
        if len(head) < up_to < longest:
            return False  # rows that go end to end behind it are shorter than those that are looked at
        agrees, ways = True, [0, up_to] if longest <= up_to else [0]
        for up_to in ways:  # end to end and side by side, as levels always are
            with self._end_to_end_up_to(up_to):
                agrees = agrees and self._is_the_same(rows, behind)
        if not agrees:
            logger.info("%s reads the head of the template anew for every row", type(self.model).__name__)
        return agrees

    @torch.inference_mode()
    def _is_the_same(self, rows: Sequence[Encoding], otherwise: Callable[[], RowMeasures]) -> bool:
        """Whether another way to the states of some rows ends at those of a forward pass."""
        try:
            found, expected = otherwise().states, self.forward(rows).states
            with self.rounded() as epsilon:
                return is_rounding(found, expected, self.forward(rows).states, epsilon)
        except Exception as error:  # a model that cannot do this goes the usual way, where its errors show
            if should_reduce_batch_size(error):
                raise
            logger.debug("%s cannot do this otherwise: %s", type(self.model).__name__, error)
            return False

    @torch.inference_mode()
    def run_shared_head(self, shared_head: int, copies: int = 1) -> DynamicCache:
        """
        Compute the keys and values of a shared head with the weights as they are now.

        Args:
            shared_head (`int`):
                Index into `encoder.shared_heads`.
            copies (`int`, *optional*, defaults to 1):
                Number of rows that go through the model, where they meet different weights.

        Returns:
            [`~transformers.DynamicCache`]: For each layer keys and values, of shape
            `(copies, heads, tokens, head size)`; a forward pass adds nothing to them.

        Raises:
            ValueError: If the model keeps something else.
        """
        ids = torch.from_numpy(self.encoder.shared_heads[shared_head]).long().expand(copies, -1)
        cache = getattr(self._run_body(ids, use_cache=True), "past_key_values", None)
        if not holds_all_tokens(cache):
            raise ValueError(f"{type(self.model).__name__} does not keep the keys and values of all tokens alone.")
        return as_shared_head(cache)

    @property
    def _device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def _run_body(self, input_ids: torch.Tensor, **options: Any) -> BaseModelOutputWithPast:
        with self._ropes.fresh():
            return self._body(input_ids=input_ids.to(self._device), **options)

    @torch.inference_mode()
    def forward(
        self,
        rows: Sequence[Encoding],
        measures: Sequence[Asked] = (),
        shared_head: DynamicCache | None = None,
        parts: int = 1,
    ) -> RowMeasures:
        """
        Measure a micro-batch with the weights as they are now.

        Args:
            rows (`Sequence[Encoding]`):
                Rows with at least one target token each; or pairs of texts, which go through the sentence encoder.
            measures (`Sequence[Asked]`, *optional*, defaults to `()`):
                What is measured; the head is left out where no number is.
            shared_head ([`~transformers.DynamicCache`], *optional*):
                What `run_shared_head` returned for the shared head of these rows, which then is not computed again.
            parts (`int`, *optional*, defaults to 1):
                Number of equal parts of the micro-batch that meet weights of their own.

        Returns:
            [`RowMeasures`]: Each measure as the mean over a row's target tokens, and features; `states` holds the
            hidden states that predict these tokens, of shape `(target tokens, hidden size)`.
        """
        if isinstance(rows[0], TextPair):
            return self._sentences.measure(rows, measures)
        measures, features = split_asked(measures)
        start = 0 if shared_head is None else rows[0].shared_head_length
        longest = np.array([max(row.length for row in rows)])
        is_padding_free = parts == 1 and self._attends_by_sdpa and self.rules.are_padding_free(longest)[0]
        rules = self.rules if is_padding_free else self.rules._replace(padding_free_up_to=0)
        length = int(rules.padded(longest, start)[0])
        input_ids = _pad([row.input_ids[start:] for row in rows], length, torch.int64).to(self._device)
        targets = _pad([row.targets[start:] for row in rows], length, torch.bool).to(self._device)
        if is_padding_free:
            lengths = [row.length - start for row in rows]
            outputs = run_padding_free(self._run_body, self._body, input_ids, lengths, shared_head)
        else:
            # Right padding and a causal model: no real token ever sees a padding token, so no attention mask is
            # needed, and the attention keeps its fast causal kernel. (No position ids either: they mean packing.)
            behind = {} if shared_head is None else self._behind(shared_head, input_ids.shape[1])
            outputs = self._run_body(input_ids, use_cache=False, **behind)
        predicting = targets[:, 1:]  # the state at position t predicts the token at t + 1
        hidden = outputs.last_hidden_state
        states = hidden[:, :-1][predicting.to(hidden.device)]
        vectors = {}
        if features and features.pooling == "gradient":
            gradients = self._gradients(states, input_ids[:, 1:], predicting, type(outputs), parts)
            vectors = {features.name: finished(gradients, features)}
        elif features:
            vectors = {features.name: self._features(features, hidden, rows, start, targets)}
        if not measures:
            return RowMeasures(vectors, states)
        is_geometric = self.token_mean == "geometric"
        asked = [_LOG_CONFIDENCE if is_geometric and measure == CONFIDENCE else measure for measure in measures]
        numbers = self._head.measure(states, input_ids[:, 1:][predicting], type(outputs), asked, parts)
        values = {name: _row_means(of_tokens, predicting) for name, of_tokens in numbers.items()}
        if is_geometric and CONFIDENCE in measures:
            values[CONFIDENCE.name].exp_()
        return RowMeasures({**values, **vectors}, states)

    def _features(
        self, features: Features, hidden: torch.Tensor, rows: Sequence[Encoding], start: int, targets: torch.Tensor
    ) -> torch.Tensor:
        """Features of rows that are read from `start` on; the head of the template, alike in all, does not count."""
        if features.pooling == "response":
            weights = targets.float() / targets.sum(dim=1, keepdim=True)
        else:
            first = torch.tensor([row.shared_head_length - start for row in rows])
            count = torch.tensor([row.length - row.shared_head_length for row in rows])
            weights = position_weights(first, count, hidden.shape[1])
            if features.pooling == "mean":
                weights = (weights > 0).float() / count[:, None]
        pooled = torch.bmm(weights.to(hidden.device)[:, None], hidden.float())[:, 0]
        return finished(pooled, features)

    def _gradients(
        self, states: torch.Tensor, ids: torch.Tensor, predicting: torch.Tensor, output_type: type, parts: int
    ) -> torch.Tensor:
        """Gradients of rows at the output weights, `(rows, size)`, from the states that predict the target tokens."""
        rows = torch.nonzero(predicting)[:, 0].unflatten(0, (parts, -1)).to(states.device)
        sketch = GradientSketch(states.shape[1], len(predicting), states.device)
        for chunk, errors in self._head.errors(states, ids[predicting], output_type, parts):
            of_chunk = states.unflatten(0, (parts, -1))[:, chunk]
            sketch.add(rows[:, chunk].flatten(), of_chunk.flatten(0, 1), errors.flatten(0, 1).to(states.device))
        return sketch.means()

    def _behind(self, shared_head: DynamicCache, length: int) -> dict[str, Any]:
        """Arguments of the body for rows of `length` tokens behind a shared head."""
        arguments: dict[str, Any] = {"past_key_values": shared_head}
        if self.model.config._attn_implementation in ("sdpa", "eager"):
            # One small mask for all rows, ready to be added; the model would make one for each row and convert it
            # in each layer. (Kernels that align the last query with the last key themselves need none.)
            arguments["attention_mask"] = mask_behind(shared_head, length)
        return arguments


def check_architecture(config: PreTrainedConfig, name: str) -> None:
    """
    Refuse, by name, what is not a decoder-only language model.

    Raises:
        ValueError: For an encoder-decoder, vision-language or audio model, and for one without a causal head.
    """
    name = f"{name} ({type(config).__name__})"
    if not config.return_dict:
        raise ValueError(
            f"{name} must give named outputs, got return_dict=False. Set model.config.return_dict = True."
        )
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder model; DLC needs a decoder-only language model.")
    if any(getattr(config, f"{kind}_config", None) is not None for kind in ("vision", "audio")):
        raise ValueError(
            f"{name} is a vision-language or audio model; DLC needs a text-only language model. Of a model of images "
            "and text it scores images by the classifier, or by the vision part alone, which has a class of its own, "
            "such as CLIPVisionModel or SiglipVisionModel."
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in getattr(
        config, "auto_map", {}
    ):
        raise ValueError(f"{name} has no causal language model in transformers; DLC needs one.")
    if config.model_type == "xlnet":
        raise ValueError(f"{name} predicts tokens in permuted order; DLC needs a left-to-right language model.")
    # BERT and its like have a head in the causal mapping too. (GPT-NeoX is causal, whatever its flag says.)
    if getattr(config, "is_decoder", True) is False and not config.model_type.startswith("gpt_neox"):
        raise ValueError(
            f"{name} sees the very tokens that it should predict (is_decoder=False, as in BERT); DLC needs a "
            "decoder-only language model."
        )


def _body_of(model: PreTrainedModel) -> PreTrainedModel:
    """
    The body that a model's head calls: its base model, or the decoder in it (OPT, BART).

    Some classes name as their base what they have only in company (Llama 4 beside images); then the one model in them
    that has the input embeddings is it.
    """
    base = model.base_model
    if base is model:
        embeddings = model.get_input_embeddings()
        parts = [part for part in model.children() if isinstance(part, PreTrainedModel)]
        bodies = [part for part in parts if any(module is embeddings for module in part.modules())]
        base = bodies[0] if len(bodies) == 1 else model
    if model.get_output_embeddings() is None or base is model:
        raise ValueError(
            f"{type(model).__name__} has no language modelling head on a body; load it with "
            "AutoModelForCausalLM.from_pretrained."
        )
    return getattr(base, "decoder", base)


def _pad(rows: Sequence[np.ndarray], length: int, dtype: torch.dtype) -> torch.Tensor:
    """`(rows, length)`, padded with zeros on the right. Which id pads does not matter: nothing sees it."""
    padded = torch.zeros((len(rows), length), dtype=dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.from_numpy(np.array(row))  # a copy: rows of files cannot be written
    return padded


def _row_means(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Means over each row of `values`, which belong, in order, to the true places of `where` `(rows, length)`."""
    grid = torch.zeros(where.shape, dtype=torch.float32, device=where.device)
    grid[where] = values
    return grid.sum(dim=1) / where.sum(dim=1)
