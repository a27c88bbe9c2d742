from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.tasks.text.preview import preview_text


def preview(tokenizer: PreTrainedTokenizerBase, *rows: dict, **settings: object) -> list[str]:
    shown = preview_text(tokenizer, RowEncoder(tokenizer, **settings).encode(rows))
    return shown.splitlines()[1:]


def test_what_is_learned_is_marked(tokenizer: PreTrainedTokenizerBase) -> None:
    assert preview(tokenizer, {"question": "What is it?", "answer": "The fox."}) == [
        "--- row 0: 27 tokens, 6 of them learned from",
        "<|im_start|>user",
        "What is it?<|im_end|>",
        "<|im_start|>assistant",
        "⟦The fox.<|im_end|>",
        "⟧",
    ]


def test_every_learned_turn_is_marked(tokenizer: PreTrainedTokenizerBase) -> None:
    ask, say = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    shown = preview(tokenizer, {"messages": [ask, say, ask, {**say, "weight": 0}, ask, say]})
    assert shown.count("⟦b<|im_end|>") == 2
    assert shown.count("b<|im_end|>") == 1


def test_rows_without_a_score_say_why(tokenizer: PreTrainedTokenizerBase) -> None:
    shown = preview(tokenizer, {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None})
    assert shown == [
        "--- row 0: 3 tokens, 2 of them learned from",
        "a⟦b<|im_end|>⟧",
        "--- row 1: empty_response, column 'completion': there is no text",
    ]


def test_a_row_that_is_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    shown = preview(tokenizer, {"prompt": "a", "completion": "b" * 30}, max_length=8)
    assert shown[0] == "--- row 0: truncated, 8 tokens, 7 of them learned from"


def test_control_characters_are_escaped(tokenizer: PreTrainedTokenizerBase) -> None:
    [_, text] = preview(tokenizer, {"prompt": "a\x1b[2Jb\r", "completion": "c\x07\tdé"})
    assert text == r"a\x1b[2Jb\r⟦c\x07\tdé<|im_end|>⟧"
