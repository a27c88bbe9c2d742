"""Law 2: the loss of level 0 is the training loss; masked levels are the same with masked weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.masking import Masker
from hf_dlc.tasks.base import LENGTH_STEP
from hf_dlc.tasks.text import head
from tests.conftest import MODEL_BUILDERS, VOCAB_SIZE
from tests.insides import task_of
from tests.rows import ALPACA_ROWS


DATASET = Dataset.from_list(ALPACA_ROWS)

_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}

# Models that do something to their logits after the head.
HEADS: dict[str, Callable[[], PreTrainedModel]] = {
    "soft-capped": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**_SIZES, head_dim=8, final_logit_softcapping=0.5, attn_implementation="eager")
    ),
    "divided": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**_SIZES, logits_scaling=0.25)),
    "multiplied": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**_SIZES, logit_scale=4.0)),
    "biased": lambda: transformers.PhiForCausalLM(transformers.PhiConfig(**_SIZES)),
}

# Models whose head calls the decoder within the base model.
DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, init_std=0.2
        )
    ),
}


def build(name: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = {**MODEL_BUILDERS, **HEADS, **DECODERS}[name]()
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    return model.eval()


def scorer_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: object) -> DLCScorer:
    return DLCScorer(model, tokenizer, DLCConfig(**{"schedule": "0, 0.1, 0.3", "keep_levels": True, **options}))


def labelled(scorer: DLCScorer) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels of each row, as a batch of one."""
    pairs = []
    for row in task_of(scorer).encode(ALPACA_ROWS):
        ids = torch.tensor(row.input_ids, dtype=torch.int64)
        pairs.append((ids[None], torch.where(torch.tensor(row.targets), ids, -100)[None]))
    return pairs


@torch.no_grad()
def naive(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], list[float]]:
    """Probability and loss of each target token, one by one, from the logits of the whole row."""
    logits = model(input_ids=ids).logits[0].double()
    probabilities, losses = [], []
    for position in range(1, ids.shape[1]):
        token = int(labels[0, position])
        if token == -100:
            continue
        scores = logits[position - 1].tolist()
        top = max(scores)
        normalizer = math.log(sum(math.exp(score - top) for score in scores)) + top
        losses.append(normalizer - scores[token])
        probabilities.append(math.exp(scores[token] - normalizer))
    return probabilities, losses


@pytest.mark.parametrize("name", [*MODEL_BUILDERS, *HEADS, *DECODERS])
def test_level_0_is_the_loss_of_the_model(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = build(name)
    scorer = scorer_of(model, tokenizer)
    losses = [levels[0] for levels in scorer(DATASET[:])["dlc_level_loss"]]
    with torch.no_grad():
        expected = [model(input_ids=ids, labels=labels).loss.item() for ids, labels in labelled(scorer)]
    np.testing.assert_allclose(losses, expected, atol=1e-4, rtol=0)
    assert np.std(expected) > 0.01  # a model for which all rows are alike would prove little


@pytest.mark.parametrize("name", HEADS)
def test_the_heads_do_what_their_names_say(name: str) -> None:
    model = build(name)
    states = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    plain = states @ model.get_output_embeddings().weight.T
    with head._forward_replaced(
        model.base_model, lambda *_, **__: transformers.modeling_outputs.BaseModelOutputWithPast(states)
    ):
        logits = model(input_ids=torch.zeros((1, 1), dtype=torch.int64)).logits
    assert not torch.allclose(logits, plain, atol=0.1)


@pytest.mark.parametrize("masking", ["random", "magnitude"])
@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "soft-capped"])
def test_masked_levels(name: str, masking: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = build(name)
    scorer = scorer_of(model, tokenizer, masking=masking, seed=3)
    columns = scorer(DATASET[:])
    double = copy.deepcopy(model)
    for level, fraction in enumerate((0.0, 0.1, 0.3)):
        with Masker(double, masking, seed=3).session() as session:
            session.set_fraction(fraction)
            found = [naive(double, ids, labels) for ids, labels in labelled(scorer)]
        confidence = [float(np.mean(probabilities)) for probabilities, _ in found]
        loss = [float(np.mean(losses)) for _, losses in found]
        np.testing.assert_allclose([row[level] for row in columns["dlc_level_confidence"]], confidence, atol=1e-5)
        np.testing.assert_allclose([row[level] for row in columns["dlc_level_loss"]], loss, atol=1e-4)
        assert columns["dlc_tokens"].tolist() == [len(losses) for _, losses in found]


def test_levels_differ(make_scorer: Callable) -> None:
    losses = np.stack(make_scorer(keep_levels=True)(DATASET[:])["dlc_level_loss"])
    assert np.abs(np.diff(losses, axis=1)).min() > 1e-3


def test_the_score_of_the_first_version(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    The first version of the paper scores text by the mean over random subnets of 1 / PPL.

    With random masks, the geometric confidence is this; the subnets there are made by dropout, here by nested masks.
    """
    schedule = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    model = build("llama")
    scorer = scorer_of(model, tokenizer, token_mean="geometric", schedule=schedule, seed=2)
    found, double = scorer(DATASET[:])["dlc_confidence"], copy.deepcopy(model)
    inverse = np.zeros((len(schedule), len(ALPACA_ROWS)))
    with torch.no_grad(), Masker(double, "random", seed=2).session() as session:
        for level, fraction in enumerate(schedule):
            session.set_fraction(fraction)
            perplexities = [double(input_ids=ids, labels=labels).loss.exp() for ids, labels in labelled(scorer)]
            inverse[level] = [1 / perplexity for perplexity in perplexities]
    np.testing.assert_allclose(found, inverse.mean(axis=0), atol=1e-5)


def test_arithmetic_and_geometric_means(make_scorer: Callable) -> None:
    arithmetic, geometric = (
        make_scorer(token_mean=mean, keep_levels=True)(DATASET[:]) for mean in ("arithmetic", "geometric")
    )
    scorer = make_scorer()
    for i, (ids, labels) in enumerate(labelled(scorer)):
        probabilities, losses = naive(scorer.model, ids, labels)
        product = math.prod(probabilities) ** (1 / len(probabilities))
        assert arithmetic["dlc_level_confidence"][i][0] == pytest.approx(
            sum(probabilities) / len(probabilities), abs=1e-5
        )
        assert geometric["dlc_level_confidence"][i][0] == pytest.approx(product, abs=1e-5)
        assert geometric["dlc_level_loss"][i][0] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    # A row's confidence is the mean of its levels', not what their mean loss would give.
    assert geometric["dlc_confidence"].tolist() == pytest.approx(
        [np.exp(-levels.astype(np.float64)).mean() for levels in geometric["dlc_level_loss"]], abs=1e-6
    )
    assert geometric["dlc_loss"].tolist() == arithmetic["dlc_loss"].tolist()
    assert (geometric["dlc_confidence"] < arithmetic["dlc_confidence"]).all()  # means of positive numbers


def test_logits_in_many_pieces(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make_scorer()
    expected = scorer(DATASET[:])["dlc_loss"]
    for tokens in (3, 1):
        monkeypatch.setitem(head._TOKENS_AT_ONCE, "full", tokens)
        monkeypatch.setattr(head, "_WORDS_AT_ONCE", 7)
        np.testing.assert_allclose(scorer(DATASET[:])["dlc_loss"], expected, atol=1e-5)
    with scorer.model.lm_head.register_forward_hook(lambda *_: None):  # by the model itself, and not part by part
        for logits in (3 * VOCAB_SIZE + 1, 1):
            monkeypatch.setitem(head._LOGITS_AT_ONCE, "full", logits)
            np.testing.assert_allclose(scorer(DATASET[:])["dlc_loss"], expected, atol=1e-5)


def test_shapes_are_few(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled and kept for each shape."""
    monkeypatch.setitem(head._LOGITS_AT_ONCE, "full", VOCAB_SIZE * 64)
    scorer = make_scorer("gpt2", tokens_per_batch=1)
    lengths, heads = set(), set()
    rows = [{"instruction": "Count.", "input": "", "output": " one" * count} for count in range(1, 41)]
    scorer(rows[:1])  # measures the model, on rows of its own
    scorer.model.base_model.h[0].register_forward_pre_hook(lambda _, args: lengths.add(args[0].shape[1]))
    scorer.model.lm_head.register_forward_pre_hook(lambda _, args: heads.add(args[0].shape[1]))
    scorer.score(Dataset.from_list(rows))
    assert all(length % LENGTH_STEP == 0 for length in lengths)
    assert 1 < len(lengths) < 30
    assert 1 < len(heads) <= 16


def test_less_padding_where_a_token_takes_longer(make_scorer: Callable) -> None:
    rows = Dataset.from_list([{"instruction": "Count.", "output": " one" * count} for count in range(1, 161)])
    padded = []
    for dtype in (torch.bfloat16, torch.float32):
        scorer = make_scorer(schedule="0")
        scorer.model.set_attn_implementation("eager")  # rows go side by side
        inputs = []
        scorer.model.to(dtype).base_model.register_forward_pre_hook(
            lambda _, __, kwargs, seen=inputs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        scorer.score(rows)
        padded.append(sum(inputs))
    assert padded[1] < padded[0]


def test_no_padding_beyond_the_learned_positions(make_scorer: Callable, tokenizer: PreTrainedTokenizerBase) -> None:
    config = make_scorer("gpt2").model.config
    config.n_positions = 45  # of which no multiple of the padding's step is left
    model = transformers.GPT2LMHeadModel(config).eval()
    scorer = DLCScorer(model, tokenizer, DLCConfig(max_length=45, schedule="0, 0.1"))
    scored = scorer.score(Dataset.from_list([{"text": "the lazy dog and the quick brown fox " * 20}]))
    assert scored["dlc_status"][:] == ["truncated"]


def test_a_seed_changes_random_masks(make_scorer: Callable) -> None:
    one, other = (make_scorer(seed=seed, keep_levels=True)(DATASET[:])["dlc_level_loss"] for seed in (0, 1))
    assert [levels[0] for levels in one] == [levels[0] for levels in other]
    assert all(first[1] != second[1] for first, second in zip(one, other, strict=True))


def test_logits_that_do_not_come_from_the_body_are_refused(make_scorer: Callable) -> None:
    scorer = make_scorer()
    result = transformers.modeling_outputs.CausalLMOutput(logits=torch.zeros(1, 3, VOCAB_SIZE))
    scorer.model.forward = lambda **_: result  # whatever the body returned
    with pytest.raises(ValueError, match="LlamaForCausalLM does not compute its logits from its body"):
        scorer(DATASET[:])


def test_a_row_longer_than_the_learned_positions(make_scorer: Callable, tokenizer: PreTrainedTokenizerBase) -> None:
    config = transformers.GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=1, n_head=4, n_positions=24)
    scorer = scorer_of(transformers.GPT2LMHeadModel(config).eval(), tokenizer)
    with pytest.raises(ValueError, match=r"longer than the 24 positions .* Pass max_length=24"):
        scorer(DATASET[:])
    scorer = scorer_of(transformers.GPT2LMHeadModel(config).eval(), tokenizer, max_length=24)
    assert "truncated" in scorer(DATASET[:])["dlc_status"]
