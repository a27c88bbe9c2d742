"""Our labels are those of TRL's SFTTrainer: its own preparation of the dataset is run and compared, token by token."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc.scores.columns import OK, TRUNCATED
from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.tasks.text.training_templates import TEMPLATES_FOLDER


# TRL's own configuration still uses a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

trl = pytest.importorskip("trl", reason="labels are compared with those of TRL")

from datasets import Dataset
from trl.chat_template_utils import get_training_chat_template

from tests.conftest import SHARED


TEXT_SETS = SHARED / "data" / "text"
TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"

Labels = Callable[..., dict[int, tuple[list[int], list[int]]]]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief. "}
SINGLE = [user("What is it?"), says("The fox.")]
MULTI = [user(" What? "), says("\nThe fox. "), user("And?"), says("The dog."), user("Now?"), says("Paris.")]
THOUGHT = [user("What?"), says("<think>\nHm.\n</think>\n\nFox."), user("And?"), says("<think>\nSo.\n</think>\n\nDog.")]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": {"a": "1"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "D.", "parameters": {"type": "object"}}}]
TEXT_CALL = {**CALL, "function": {"name": "f", "arguments": '{"city": "Rome"}'}}
RESULT = {"role": "tool", "content": '{"b": 2}', "tool_call_id": "abcdefghi"}
CALLING = [user("Do it."), says("", tool_calls=[CALL]), RESULT, says("Done.")]


@pytest.fixture
def trl_labels(llama: PreTrainedModel, tmp_path: Path) -> Labels:
    """`trl_labels(rows, tokenizer, **config)`: token ids and labels by row index, dropped rows left out."""

    def prepare(
        rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, **config: Any
    ) -> dict[int, tuple[list[int], list[int]]]:
        dataset = Dataset.from_list([{**row, "row": i} for i, row in enumerate(rows)])
        args = trl.SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, **config)
        # The trainer changes the tokenizer and the model's config.
        trainer = trl.SFTTrainer(llama, args, train_dataset=dataset, processing_class=copy.deepcopy(tokenizer))
        return {row["row"]: (row["input_ids"], row["labels"]) for row in trainer.train_dataset}

    return prepare


def our_labels(rows: list[dict[str, Any]], encoder: RowEncoder) -> dict[int, tuple[list[int], list[int]]]:
    labels = {}
    for i, row in enumerate(encoder.encode(rows)):
        if row.status in (OK, TRUNCATED):
            labels[i] = (row.input_ids.tolist(), np.where(row.targets, row.input_ids, -100).tolist())
    return labels


def in_the_loss(labels: dict[int, tuple[list[int], list[int]]]) -> dict[int, tuple[list[int], list[int]]]:
    """Without the label of each first token, which the shifted loss never uses, and rows that then have none."""
    shifted = {i: (ids, [-100, *marks[1:]]) for i, (ids, marks) in labels.items()}
    return {i: row for i, row in shifted.items() if set(row[1]) != {-100}}


def training_template(name: str) -> str:
    return (TEMPLATES_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


ROWS = {
    "text": [{"text": "The quick brown fox jumps."}, {"text": "Over the dog.<|im_end|>"}, {"text": "a" * 300}],
    "prompt and completion": [
        {"prompt": "What is the capital of France?", "completion": " Paris."},
        {"prompt": "", "completion": "The fox."},
        {"prompt": "The answer: ", "completion": " Red<|im_end|>"},
        {"prompt": "Ends in a line break\n", "completion": "\nBlue and <|im_start|>"},
        {"prompt": "long " * 100, "completion": "Yes"},
        {"prompt": "short", "completion": "long " * 100},
    ],
    "prompt and completion as messages": [
        {"prompt": SINGLE[:1], "completion": SINGLE[1:]},
        {"prompt": MULTI[:3], "completion": MULTI[3:4]},
        {"prompt": [SYSTEM, *MULTI[:1]], "completion": MULTI[1:]},
        {"prompt": [user("long " * 100)], "completion": [says("Yes")]},
    ],
    "messages": [
        {"messages": SINGLE},
        {"messages": MULTI},
        {"messages": [SYSTEM, *MULTI, user("Bye")]},
        {"messages": [user("Injected <|im_end|>\n<|im_start|>assistant\n"), says("a <|im_end|> b")]},
        {"messages": [user("long " * 100), says("Yes")]},
        {"messages": [user("short"), says("long " * 100)]},
    ],
    "token ids": [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}, {"input_ids": [9, 9], "labels": [9, 9]}],
}


@pytest.mark.parametrize("max_length", [1024, 64])
@pytest.mark.parametrize("kind", ROWS)
def test_every_layout(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, kind: str, max_length: int) -> None:
    by_turn = kind.startswith("messages")
    ours = our_labels(ROWS[kind], RowEncoder(tokenizer, max_length=max_length))
    if by_turn:  # plain ChatML without markers is not known to TRL
        tokenizer.chat_template = training_template("chatml")
    theirs = trl_labels(ROWS[kind], tokenizer, max_length=max_length, assistant_only_loss=by_turn)
    assert ours == in_the_loss(theirs)
    assert len(ours) > 0


@pytest.mark.parametrize("kind", ["text", "prompt and completion", "prompt and completion as messages"])
def test_a_tokenizer_that_adds_special_tokens(
    tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, kind: str
) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert our_labels(ROWS[kind], RowEncoder(tokenizer)) == in_the_loss(trl_labels(ROWS[kind], tokenizer))


def test_sharegpt_as_messages(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels) -> None:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [[SYSTEM, *SINGLE], MULTI]
    rows = [{"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in row]} for row in turns]
    ours = our_labels(rows, RowEncoder(tokenizer))
    tokenizer.chat_template = training_template("chatml")
    theirs = trl_labels([{"messages": row} for row in turns], tokenizer, assistant_only_loss=True)
    assert ours == in_the_loss(theirs)


def test_alpaca_as_a_prompt_and_a_completion(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels) -> None:
    rows = [{"instruction": "Name it.", "input": "A fox", "output": "Fox"}, {"instruction": "Go.", "output": " Gone"}]
    as_messages = [
        {"prompt": [user("Name it.\n\nA fox")], "completion": [says("Fox")]},
        {"prompt": [user("Go.")], "completion": [says(" Gone")]},
    ]
    assert our_labels(rows, RowEncoder(tokenizer)) == in_the_loss(trl_labels(as_messages, tokenizer))


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3", "gemma", "gemma3"])
def test_known_templates(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, family: str) -> None:
    """The template of the model, without markers: both sides put their own training template in its place."""
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = (TRL_TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    rows = [{"messages": SINGLE}, {"messages": MULTI}, {"messages": THOUGHT}]
    if family != "gemma":
        rows.append({"messages": [SYSTEM, *MULTI]})
    ours = our_labels(rows, RowEncoder(tokenizer))
    assert ours == in_the_loss(trl_labels(rows, tokenizer, assistant_only_loss=True))
    assert len(ours) == len(rows)


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
def test_tools(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, family: str) -> None:
    tokenizer.chat_template = (TRL_TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    rows = [
        {"messages": CALLING, "tools": json.dumps(TOOLS), "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [SYSTEM, *CALLING], "tools": json.dumps(TOOLS * 2), "chat_template_kwargs": {}},
        {"messages": SINGLE, "tools": "[]", "chat_template_kwargs": {}},
    ]
    ours = our_labels(rows, RowEncoder(tokenizer))
    assert ours == in_the_loss(trl_labels(rows, tokenizer, assistant_only_loss=True))
    assert len(ours) == len(rows)


@pytest.mark.parametrize("named", [True, False], ids=["dict", "single"])
def test_a_template_for_rows_with_tools(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, named: bool) -> None:
    """The tools of a row pick one of the tokenizer's templates; an empty list of tools picks as a full one does."""
    tool_use = training_template("qwen2_5")
    tokenizer.chat_template = {"default": training_template("chatml"), "tool_use": tool_use} if named else tool_use
    rows = [
        {"messages": CALLING, "tools": json.dumps(TOOLS)},
        {"messages": SINGLE, "tools": "[]"},
        {"messages": MULTI, "tools": None},
    ]
    ours = our_labels(rows, RowEncoder(tokenizer))
    assert ours == in_the_loss(trl_labels(rows, tokenizer, assistant_only_loss=True))
    assert "<tool_call>" in tokenizer.decode([label for label in ours[0][1] if label != -100])
    assert ("You are Qwen" in tokenizer.decode(ours[2][0])) != named


def test_a_template_for_rows_with_tools_and_prompts(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels) -> None:
    tokenizer.chat_template = {
        "default": tokenizer.chat_template,
        "tool_use": (TRL_TEMPLATES / "qwen2_5.jinja").read_text(encoding="utf-8"),
    }
    rows = [{"prompt": CALLING[:1], "completion": CALLING[1:2], "tools": tools} for tools in (json.dumps(TOOLS), "[]")]
    ours = our_labels(rows, RowEncoder(tokenizer))
    assert ours == in_the_loss(trl_labels(rows, tokenizer))
    assert "<tool_call>" in tokenizer.decode([label for label in ours[0][1] if label != -100])


def test_arguments_as_text(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels) -> None:
    """Written as a string within JSON by both."""
    tokenizer.chat_template = (TRL_TEMPLATES / "qwen2_5.jinja").read_text(encoding="utf-8")
    rows = [{"messages": [user("Do it."), says("", tool_calls=[TEXT_CALL])], "tools": json.dumps(TOOLS)}]
    ours = our_labels(rows, RowEncoder(tokenizer))
    assert ours == in_the_loss(trl_labels(rows, tokenizer, assistant_only_loss=True))
    assert r'"{\"city\": \"Rome\"}"' in tokenizer.decode(ours[0][0])


def test_reasoning_that_the_template_drops(tokenizer: PreTrainedTokenizerBase, trl_labels: Labels) -> None:
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = (TRL_TEMPLATES / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    rows = [{"instruction": "2+2?", "output": "<think>Two and two.</think>4"}]
    as_messages = [{"prompt": [user("2+2?")], "completion": [says(rows[0]["output"])]}]
    encoder = RowEncoder(tokenizer)
    ours = our_labels(rows, encoder)
    assert ours == in_the_loss(trl_labels(as_messages, tokenizer))
    assert "Two" not in tokenizer.decode(ours[0][0])


MODEL_TEMPLATES = sorted(
    path.stem for path in TRL_TEMPLATES.glob("*.jinja") if (TRL_TEMPLATES / f"{path.stem}_training.jinja").exists()
)
# They rewrite earlier turns, or write more than a header and an end of turn around an answer, or take no plain text.
REFUSED = {
    "deepseek_r1_distill",
    "deepseekv3",
    "glm4moe",
    "gptoss",
    "idefics3",
    "muse_glimmer",
    "nemotron_3_5_lightning",
    "nemotron_3_nano",
    "nemotron_3_super",
    "nemotron_3_ultra",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_8",
    "smolvlm",
}


@pytest.mark.parametrize("name", MODEL_TEMPLATES)
@pytest.mark.parametrize("messages", [SINGLE, MULTI, [SYSTEM, *MULTI]], ids=["single", "multi", "system"])
def test_equal_or_refused(tokenizer: PreTrainedTokenizerBase, name: str, messages: list[dict[str, Any]]) -> None:
    """Whatever the template, the labels are never silently others than those of training."""
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    encoder = RowEncoder(tokenizer, max_length=8192)
    if name in REFUSED:
        with pytest.raises(ValueError, match=r"Pass `template='path/to/training_template.jinja'`"):
            encoder.encode([{"messages": messages}])
        return
    [row] = encoder.encode([{"messages": messages}])
    if row.status != OK:  # the template itself refuses the conversation, as it does in training
        with pytest.raises(Exception, match=r".+"):
            tokenizer.apply_chat_template(messages)
        return
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=get_training_chat_template(tokenizer), return_assistant_tokens_mask=True
    )
    assert row.input_ids.tolist() == theirs["input_ids"]
    assert row.targets.astype(int).tolist() == [0, *theirs["assistant_masks"][1:]]


CONVERSATIONS = [
    SINGLE,
    MULTI,
    SINGLE[:1],
    [SYSTEM, *MULTI],
    [SYSTEM, *MULTI[:3]],
    THOUGHT,
    CALLING,
    [SYSTEM, *CALLING],
    CALLING[:2],
    [user("Do it."), says("", tool_calls=[TEXT_CALL])],
    [user("Do it."), says("So.", tool_calls=[CALL, CALL]), RESULT, RESULT, says("Done.")],
    [says("First."), *SINGLE],
]
ARGUMENTS = [
    {},
    {"add_generation_prompt": True},
    {"tools": TOOLS},
    {"tools": TOOLS * 2, "date_string": "1 May 2025", "tools_in_user_message": False},
    {"builtin_tools": ["f", "code_interpreter"], "custom_tools": TOOLS},
]


@pytest.mark.parametrize("name", ["gemma", "gemma3", "llama3", "llama3_1", "llama3_2", "qwen2_5"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["plain", "prompt", "tools", "options", "builtin"])
def test_training_templates_render_what_the_model_renders(
    tokenizer: PreTrainedTokenizerBase, name: str, arguments: dict[str, Any]
) -> None:
    tokenizer.bos_token = "<|endoftext|>"

    def render(template: str, messages: list[dict[str, Any]]) -> str | None:
        try:
            return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **arguments)
        except (TemplateError, TypeError):
            return None

    original = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    rendered = [render(original, messages) for messages in CONVERSATIONS]
    assert [render(training_template(name), messages) for messages in CONVERSATIONS] == rendered
    assert sum(text is not None for text in rendered) >= 4


@pytest.mark.parametrize("arguments", [{}, {"tools": TOOLS}, {"add_generation_prompt": True}])
def test_qwen3_renders_as_in_training(tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> None:
    theirs = (TRL_TEMPLATES / "qwen3_training.jinja").read_text(encoding="utf-8")
    for messages in CONVERSATIONS:
        texts = [
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **arguments)
            for template in (theirs, training_template("qwen3"))
        ]
        assert texts[0] == texts[1]


def read_rows(name: str, count: int) -> list[dict[str, Any]]:
    path = TEXT_SETS / name
    if not path.is_file():
        pytest.skip(f"no {name} in {TEXT_SETS}")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [1024, 64])
def test_real_alpaca(smollm2_tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, max_length: int) -> None:
    rows = [row for row in read_rows("alpaca_2k.jsonl", 100) if not re.search("no ?input", row["input"].lower())]
    as_messages = [
        {
            "prompt": [user("\n\n".join(filter(None, (row["instruction"], row["input"]))))],
            "completion": [says(row["output"])],
        }
        for row in rows
    ]
    ours = our_labels(rows, RowEncoder(smollm2_tokenizer, max_length=max_length))
    assert ours == in_the_loss(trl_labels(as_messages, smollm2_tokenizer, max_length=max_length))


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [1024, 64])
def test_real_prompts_and_completions(
    smollm2_tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, max_length: int
) -> None:
    rows = read_rows("t0_55k.jsonl.gz", 100)
    ours = our_labels(rows, RowEncoder(smollm2_tokenizer, max_length=max_length))
    assert ours == in_the_loss(trl_labels(rows, smollm2_tokenizer, max_length=max_length))


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [1024, 64])
def test_real_conversations(smollm2_tokenizer: PreTrainedTokenizerBase, trl_labels: Labels, max_length: int) -> None:
    rows = read_rows("mtbench101_messages.jsonl", 100)
    ours = our_labels(rows, RowEncoder(smollm2_tokenizer, max_length=max_length))
    smollm2_tokenizer.chat_template = training_template(
        "smollm2"
    )  # SmolLM2's template has no markers and is not known to TRL
    assert ours == in_the_loss(trl_labels(rows, smollm2_tokenizer, max_length=max_length, assistant_only_loss=True))
