"""Views of a row: its responses without what they answer, and the beginnings of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from hf_dlc.scores.columns import NO_PROMPT, NO_TARGET
from hf_dlc.tasks.base import FULL_VIEW
from hf_dlc.tasks.text.chat import warn_once
from hf_dlc.tasks.text.encoding import Encoding, RowEncoder
from hf_dlc.tasks.text.views import Views


ROW = {"instruction": "Name three colours.", "input": "", "output": "Red, yellow and blue."}
TALK = {
    "messages": [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And another colour, one that is not red?"},
        {"role": "assistant", "content": "Yellow, then."},
    ]
}
# The assistant's header is a part of the user's turn, and the start of the row is written by the template.
LLAMA_2 = (
    "{% for m in messages %}"
    "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}"
    "{% endfor %}"
)


def parts(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> tuple[str, str]:
    """What stands before the targets, and the targets, as text."""
    return tokenizer.decode(row.input_ids[~row.targets]), tokenizer.decode(row.input_ids[row.targets])


def views_of(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], alone: str = "header", **options: Any) -> Views:
    return Views(RowEncoder(tokenizer, **options), alone, first_tokens=4)


def test_the_full_view_is_the_row(tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(tokenizer, ROW)
    rows = views.encoder.encode([ROW, ROW])
    assert views.of(rows, FULL_VIEW).rows == rows


@pytest.mark.parametrize(
    ("alone", "head"),
    [
        ("header", "<|im_start|>assistant\n"),
        ("empty_prompt", "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"),
        ("raw", ""),
    ],
)
def test_what_a_response_stands_behind(tokenizer: PreTrainedTokenizerBase, alone: str, head: str) -> None:
    views = views_of(tokenizer, ROW, alone)
    [row] = views.encoder.encode([ROW])
    [found] = views.of([row], "alone").rows
    response = row.input_ids[row.targets]
    assert tokenizer.decode(found.input_ids) == head + tokenizer.decode(response)
    np.testing.assert_array_equal(found.input_ids[-len(response) :], response)
    assert found.target_tokens == row.target_tokens - (0 if head else 1)  # nothing predicts the first


def test_the_header_of_the_alpaca_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(tokenizer, ROW, template="alpaca")
    [found] = views.of(views.encoder.encode([ROW]), "alone").rows
    before, response = parts(tokenizer, found)
    assert before.strip() == "### Response:"
    assert response.startswith("Red, yellow")


def test_every_turn_is_a_part_of_its_own(tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(tokenizer, TALK)
    rows = views.encoder.encode([ROW, TALK])
    found = views.of(rows, "alone")
    assert found.owners.tolist() == [0, 1, 1]
    first, second = (parts(tokenizer, row) for row in found.rows[1:])
    assert first[0] == second[0] == "<|im_start|>assistant\n"
    assert first[1].startswith("Red.")
    assert second[1].startswith("Yellow, then.")
    assert sum(row.target_tokens for row in found.rows[1:]) == rows[1].target_tokens


@pytest.mark.parametrize("alone", ["header", "raw"])
@pytest.mark.parametrize("row", [ROW, TALK], ids=["row", "talk"])
def test_beginnings_are_the_same_tokens(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], alone: str) -> None:
    """With the prompt and without, the same tokens count, and no more than are asked for of each turn."""
    views = views_of(tokenizer, row, alone)
    [whole] = views.encoder.encode([row])
    [start], without = views.of([whole], "start").rows, views.of([whole], "alone_start").rows
    turns = 1 if row is ROW else 2
    assert len(without) == turns
    np.testing.assert_array_equal(
        start.input_ids[start.targets], np.concatenate([one.input_ids[one.targets] for one in without])
    )
    assert [one.target_tokens for one in without] == [4] * turns
    np.testing.assert_array_equal(start.input_ids, whole.input_ids[: start.length])
    assert start.targets[-1]  # it is cut behind the last token that counts
    assert start.length < whole.length


def test_a_short_response_counts_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    views = Views(RowEncoder(tokenizer), first_tokens=10**4)
    rows = views.encoder.encode([ROW])
    for view, other in (("start", FULL_VIEW), ("alone_start", "alone")):
        [found], [expected] = views.of(rows, view).rows, views.of(rows, other).rows
        np.testing.assert_array_equal(found.targets[: found.length], expected.targets[: found.length])
        assert found.target_tokens == expected.target_tokens


@pytest.mark.parametrize(
    "row",
    [
        {"text": "Just a text, all of it learned."},
        {"instruction": "", "input": "", "output": "An answer to nothing."},
        {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]},
        {"prompt": "", "completion": "An answer to nothing."},
    ],
    ids=lambda row: next(iter(row)),
)
@pytest.mark.parametrize("view", ["alone", "start", "alone_start"])
@pytest.mark.parametrize("alone", ["header", "empty_prompt", "raw"])
def test_rows_without_a_prompt(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], view: str, alone: str) -> None:
    views = views_of(tokenizer, row, alone)
    [whole] = views.encoder.encode([row])
    assert whole.length
    [found] = views.of([whole], view).rows
    assert (found.status, found.length) == (NO_PROMPT, 0)
    assert "nothing stands before its response" in found.why


def test_token_ids_with_a_boundary(tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
    """What stands before them is not the template's header: alone they stand behind nothing, and that is said once."""
    warn_once.cache_clear()
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]}
    views = views_of(tokenizer, row)
    [found] = views.of(views.encoder.encode([row]), "alone").rows
    assert (found.input_ids.tolist(), found.targets.tolist()) == ([7, 8, 9], [False, True, True])
    assert caplog.text.count("alone='header' is not used for rows whose response does not stand behind") == 1


def test_a_single_token_alone_has_no_target(tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}
    views = views_of(tokenizer, row)
    for view in ("alone", "start", "alone_start"):
        [found] = views.of(views.encoder.encode([row]), view).rows
        assert (found.status, found.length) == (NO_TARGET, 0)


def test_a_row_that_is_skipped_stays_so(tokenizer: PreTrainedTokenizerBase) -> None:
    views = views_of(tokenizer, ROW)
    rows = views.encoder.encode([{**ROW, "output": ""}, ROW])
    found = views.of(rows, "alone")
    assert [row.status for row in found.rows] == ["empty_response", "ok"]


def test_a_header_within_the_turn_of_the_user(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = LLAMA_2
    views = views_of(tokenizer, ROW)
    [found] = views.of(views.encoder.encode([ROW]), "alone").rows
    assert parts(tokenizer, found)[0].strip().endswith("[/INST]")
    assert "colours" not in tokenizer.decode(found.input_ids)


def test_a_template_that_accepts_no_empty_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    refusing = "{% for m in messages if not m.content %}{{ raise_exception('say something') }}{% endfor %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    views = views_of(tokenizer, ROW, "empty_prompt")
    with pytest.raises(ValueError, match="alone='empty_prompt' needs a template that accepts an empty user turn"):
        views.of(views.encoder.encode([ROW]), "alone")


def test_the_token_before_every_text_stays(tokenizer: PreTrainedTokenizerBase) -> None:
    """A tokenizer that puts BOS before every text does so before a response alone too."""
    tokenizer.bos_token = "<|endoftext|>"
    before = TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = before
    for alone, head in (("raw", "<|endoftext|>"), ("header", "<|endoftext|>### Response:")):
        views = views_of(tokenizer, ROW, alone, template="alpaca")
        [found] = views.of(views.encoder.encode([ROW]), "alone").rows
        assert parts(tokenizer, found)[0].strip() == head
        assert found.targets.argmax() > 0


def test_a_header_that_begins_with_bos_has_it_once(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.bos_token = "<|im_start|>"
    views = views_of(tokenizer, ROW)
    [found] = views.of(views.encoder.encode([ROW]), "alone").rows
    assert parts(tokenizer, found)[0] == "<|im_start|>assistant\n"
