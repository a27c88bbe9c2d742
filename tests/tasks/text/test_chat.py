"""Chat templates as they come: several for one tokenizer, and those that drop, move or rewrite parts of a row."""

from __future__ import annotations

import json
import logging
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from hf_dlc.scores.columns import INVALID_ROW, OK
from hf_dlc.tasks.text.chat import ChatTemplate, warn_once
from hf_dlc.tasks.text.encoding import Encoding, RowEncoder
from hf_dlc.tasks.text.rows import Conversation, Turn
from hf_dlc.tasks.text.template import Draft
from hf_dlc.tasks.text.training_templates import FAMILIES, TEMPLATES_FOLDER
from tests.conftest import CHATML


ASK = {"role": "user", "content": "What is it?"}
SAY = {"role": "assistant", "content": "The fox."}
SYSTEM = {"role": "system", "content": "Answer as a pirate."}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
OTHER_CALL = {"type": "function", "id": "ihgfedcba", "function": {"name": "time", "arguments": {"zone": "UTC"}}}
RESULT = {"role": "tool", "content": '{"degrees": 21}', "tool_call_id": "abcdefghi"}
CALLING = [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT, SAY]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": {}}}]
TEXT_CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}

# In the style of DeepSeek-R1, which keeps of an answer what follows its reasoning.
STRIPPING = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
CALLS = (
    "{% for call in message.tool_calls or [] %}{{ '<call>' + call.function.name + ' ' "
    "+ (call.function.arguments | tojson) + '</call>' }}{% endfor %}"
)
# Markers, tools and calls: what a template under the name `tool_use` has.
TOOL_USE = (
    "{{ '<tools>' + (tools | tojson) + '</tools>' if tools }}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}" + CALLS + "{{ '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = TOOL_USE.replace(CALLS, "").replace("{{ '<tools>' + (tools | tojson) + '</tools>' if tools }}", "")


@pytest.fixture(autouse=True)
def _warnings_are_new() -> None:
    warn_once.cache_clear()


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hf_dlc")


def family(name: str) -> str:
    return (TEMPLATES_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def text_of(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> str:
    return tokenizer.decode(row.input_ids)


def learned(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> str:
    return tokenizer.decode(row.input_ids[row.targets])


def encode(tokenizer: PreTrainedTokenizerBase, template: Any, *rows: dict[str, Any]) -> list[Encoding]:
    tokenizer.chat_template = template
    return RowEncoder(tokenizer).encode(rows)


def conversation(*messages: dict[str, Any], tools: list | None = None, **options: Any) -> Conversation:
    """The messages as rows are read, whatever reads them."""
    turns = [
        Turn(
            message["role"],
            message["content"],
            learned=message["role"] == "assistant",
            tool_calls=message.get("tool_calls"),
            extra={k: v for k, v in message.items() if k not in ("role", "content", "tool_calls")},
        )
        for message in messages
    ]
    return Conversation(tuple(turns), tools=tools, **options)


def draft(tokenizer: PreTrainedTokenizerBase, template: Any, *rows: Conversation) -> tuple[ChatTemplate, Draft]:
    """The chat template after some rows, and the draft of the last of them."""
    tokenizer.chat_template = template
    chat = ChatTemplate(tokenizer)
    drafts = [chat.draft(row) for row in rows]
    return chat, drafts[-1]


def messages_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


NAMED = {"default": MARKED, "tool_use": TOOL_USE, "rag": "{{ not_for_us }}"}


class TestNamedTemplates:
    def test_the_tools_of_a_row_pick_its_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with_tools, without = encode(
            tokenizer, NAMED, {"messages": CALLING, "tools": TOOLS}, {"messages": [ASK, SAY], "tools": None}
        )
        assert text_of(tokenizer, with_tools).startswith('<tools>[{"type": "function", "function": {"name": "weather"')
        said = '<call>weather {"city": "Zürich"}</call><|im_end|>\nThe fox.<|im_end|>\n'
        assert learned(tokenizer, with_tools) == said
        assert text_of(tokenizer, without).startswith("<|im_start|>user")

    @pytest.mark.parametrize("tools", [None, [], TOOLS])
    @pytest.mark.parametrize("prompt_turns", [None, 1])
    def test_as_the_tokenizer_picks(
        self, tokenizer: PreTrainedTokenizerBase, tools: list | None, prompt_turns: int | None
    ) -> None:
        _, drafted = draft(tokenizer, NAMED, conversation(*CALLING, tools=tools, prompt_turns=prompt_turns))
        picked = tokenizer.get_chat_template(None, tools)
        messages = CALLING
        if picked == MARKED:  # renders no calls, which are then written into the content
            call = json.dumps(CALL["function"], ensure_ascii=False)
            messages = [ASK, {"role": "assistant", "content": call}, RESULT, SAY]
        expected = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert drafted.text == expected

    def test_tools_among_the_arguments_of_the_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        row = {"messages": CALLING, "chat_template_kwargs": {"tools": TOOLS}}
        assert "<call>weather" in learned(tokenizer, *encode(tokenizer, NAMED, row))

    def test_a_list_of_named_templates(self, tokenizer: PreTrainedTokenizerBase) -> None:
        row = {"messages": CALLING, "tools": TOOLS}
        [expected] = encode(tokenizer, NAMED, row)
        [encoding] = encode(tokenizer, [{"name": k, "template": v} for k, v in NAMED.items()], row)
        assert np.array_equal(encoding.input_ids, expected.input_ids)
        assert np.array_equal(encoding.targets, expected.targets)

    def test_no_template_for_rows_without_tools(self, tokenizer: PreTrainedTokenizerBase) -> None:
        named = {"tool_use": TOOL_USE, "rag": MARKED}
        [encoding] = encode(tokenizer, named, {"messages": CALLING, "tools": TOOLS})
        assert "<call>weather" in learned(tokenizer, encoding)
        with pytest.raises(ValueError, match=r"under the names \['rag', 'tool_use'\] only.*Pass `template="):
            encode(tokenizer, named, {"messages": [ASK, SAY]})

    def test_no_template_for_any_row(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match=r"under the names \['rag'\] only.*Pass `template="):
            encode(tokenizer, {"rag": MARKED}, {"messages": [ASK, SAY]})

    def test_a_file_stands_for_all(self, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        path = tmp_path / "own.jinja"
        path.write_text("OWN " + TOOL_USE, encoding="utf-8")
        tokenizer.chat_template = NAMED
        encoder = RowEncoder(tokenizer, template=path)
        for row in encoder.encode([{"messages": CALLING, "tools": TOOLS}, {"messages": CALLING, "tools": None}]):
            assert text_of(tokenizer, row).startswith("OWN ")
        assert encoder.describe()["chat_template"] == "OWN " + TOOL_USE

    def test_the_description_covers_all_that_rows_may_use(self, tokenizer: PreTrainedTokenizerBase) -> None:
        def described(template: Any) -> str:
            tokenizer.chat_template = template
            return json.dumps(RowEncoder(tokenizer).describe())

        both = described(NAMED)
        assert described({**NAMED, "tool_use": TOOL_USE + "!"}) != both
        assert described({**NAMED, "default": MARKED + "!"}) != both
        assert described({**NAMED, "rag": "!"}) == both
        assert described({"default": MARKED}) == described(MARKED)
        assert described({"default": MARKED, "tool_use": MARKED}) == described(MARKED)

    def test_the_day_in_either_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = {"default": MARKED, "tool_use": TOOL_USE + "{{ strftime_now('%d') }}"}
        assert "strftime_now" in RowEncoder(tokenizer).template_text

    def test_each_has_its_training_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = {"default": CHATML, "tool_use": TOOL_USE}
        assert RowEncoder(tokenizer).describe()["training_template"] == [family("chatml"), TOOL_USE]

    def test_shared_heads_are_those_of_rows_without_tools(self, tokenizer: PreTrainedTokenizerBase) -> None:
        named = {"default": family("smollm2"), "tool_use": "Use the tools that follow, if they help. " + TOOL_USE}
        with_tools, without = encode(
            tokenizer, named, {"messages": CALLING, "tools": TOOLS}, {"messages": [ASK, SAY], "tools": None}
        )
        assert (with_tools.shared_head, with_tools.shared_head_length) == (0, 0)
        assert without.shared_head_length > 0


class TestDroppedParts:
    def test_reasoning_in_an_answer(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [{"instruction": "2+2?", "output": "<think>Two and two.</think>4"}] * 2
        tokenizer.chat_template = STRIPPING
        encoder = RowEncoder(tokenizer)
        for row in encoder.encode(rows):
            assert row.status == OK
            assert learned(tokenizer, row) == "4<|im_end|>\n"  # as in training
        [warning] = messages_in(caplog)
        assert warning.startswith("The chat template drops or rewrites content of assistant turns: 'Two and two.'")
        assert "Pass `template=" in warning or "pass `template=" in warning

    @pytest.mark.parametrize(
        ("template", "row", "dropped"),
        [
            (STRIPPING, [ASK, {**SAY, "content": "<think>Hm.</think>Fox"}], "content of assistant turns"),
            (STRIPPING, [ASK, {**SAY, "content": "Hm.</think>Fox"}], "content of assistant turns"),
            (
                STRIPPING,
                [{**ASK, "content": "3"}, {**SAY, "content": "<think>3</think>4"}],
                "content of assistant turns",
            ),
            (MARKED, [ASK, {**SAY, "reasoning_content": "It barks."}], "reasoning_content of assistant turns"),
            (MARKED, [ASK, {**SAY, "thinking": "It barks."}], "thinking of assistant turns"),
            (MARKED, [{**ASK, "name": "Ada Lovelace"}, SAY], "name of user turns"),
            (
                MARKED,
                [ASK, {**SAY, "reasoning_details": [{"type": "text", "text": "It barks."}]}],
                "reasoning_details of assistant turns",
            ),
            (MARKED.replace("messages %}", "messages if message.role != 'system' %}"), [SYSTEM, ASK, SAY], "system"),
            (MARKED.replace("messages %}", "messages if message.role != 'tool' %}"), [ASK, SAY, RESULT, SAY], "tool"),
            (MARKED.replace("messages %}", "messages[-2:] %}"), [ASK, SAY, {**ASK, "content": "And?"}, SAY], "user"),
            (MARKED.replace("messages %}", "messages[2:] %}"), [ASK, SAY, ASK, SAY], "assistant"),
            (MARKED.replace("message.content", "message.text"), [ASK, SAY], None),
            (
                MARKED.replace(
                    "{{ message.content }}", "{% for part in message.content %}{{ part.text }}{% endfor %}"
                ),
                [ASK, SAY],
                "assistant",
            ),
            (family("mistral"), [SYSTEM, ASK, SAY], "system"),
            (TOOL_USE.replace("or []", "[:1]"), [ASK, {**SAY, "tool_calls": [CALL, OTHER_CALL]}], "tool calls"),
            (TOOL_USE.replace("(call.function.arguments | tojson)", "''"), CALLING, "tool calls"),
        ],
    )
    def test_kinds(
        self,
        tokenizer: PreTrainedTokenizerBase,
        caplog: pytest.LogCaptureFixture,
        template: str,
        row: list[dict[str, Any]],
        dropped: str | None,
    ) -> None:
        tokenizer.bos_token = "<|endoftext|>"
        if dropped is None:  # an error in the template
            [encoding] = encode(tokenizer, template, {"messages": row})
            assert encoding.status == INVALID_ROW
            assert "the chat template does not accept it" in encoding.why
            return
        chat, _ = draft(tokenizer, template, conversation(*row), conversation(*row))
        phrase = dropped if " " in dropped else f"content of {dropped} turns"
        assert phrase in chat.dropped
        assert sum(f"drops or rewrites {phrase}:" in message for message in messages_in(caplog)) == 1

    def test_tools(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        """Their names are in the calls, too."""
        chat, _ = draft(tokenizer, MARKED, conversation(*CALLING, tools=TOOLS))
        assert chat.dropped == ("tools",)
        assert "drops or rewrites tools: 'weather'" in caplog.text

    @pytest.mark.parametrize("template", [MARKED, TOOL_USE.replace("tools | tojson", "tools[0].title")])
    def test_tools_in_a_form_of_their_own(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        tool = {"title": "weather", "text": "Tells how the weather is."}
        assert draft(tokenizer, template, conversation(ASK, SAY, tools=[tool]))[0].dropped == ("tools",)

    def test_no_tools_are_not_missed(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert draft(tokenizer, MARKED, conversation(ASK, SAY, tools=[]))[0].dropped == ()

    @pytest.mark.parametrize(
        ("arguments", "dropped"),
        [
            ({"mood": "calm"}, ("mood of chat_template_kwargs",)),
            ({"mood": None}, ()),
            ({"chat_template": "{{ 1 }}"}, ("chat_template of chat_template_kwargs",)),
            ({"tools": []}, ()),
            ({"add_generation_prompt": False}, ()),
        ],
    )
    def test_arguments_of_the_template(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, arguments: Any, dropped: Any
    ) -> None:
        row = conversation(ASK, SAY, template_kwargs=arguments)
        assert draft(tokenizer, MARKED, row, row)[0].dropped == dropped
        assert messages_in(caplog) == [
            f"A row has {name}, which the chat template in use does not read." for name in dropped
        ]

    def test_all_kinds_of_a_row(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = MARKED.replace("messages %}", "messages if message.role != 'system' %}")
        row = conversation(SYSTEM, ASK, {**SAY, "reasoning_content": "It barks."}, tools=TOOLS)
        chat, _ = draft(tokenizer, template, row)
        assert chat.dropped == ("content of system turns", "reasoning_content of assistant turns", "tools")

    def test_what_counts_is_the_text_that_is_scored(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Qwen3's training template keeps the reasoning of earlier turns, which the model's own drops."""
        forgetful = family("qwen3").replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
        forgetful = forgetful.replace(
            "{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}",
            "{%- if loop.last %}{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}"
            "{{- content.lstrip('\\n') }}",
        )
        thought = {**SAY, "content": "<think>\nIt barks.\n</think>\n\nFox."}
        chat, drafted = draft(tokenizer, forgetful, conversation(ASK, thought, ASK, SAY))
        assert drafted.text.count("It barks.") == 1
        assert chat.dropped == ()
        chat, drafted = draft(tokenizer, forgetful, conversation(ASK, thought, ASK, SAY, prompt_turns=3))
        assert "It barks." not in drafted.text
        assert chat.dropped == ("content of assistant turns",)

    def test_examples_are_short_and_escaped(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        odd = {**SAY, "a\nkey\x1b[31m" * 50: "\x1b[31m" * 500, "content": "Fox"}
        draft(tokenizer, MARKED, conversation(ASK, odd))
        [warning] = messages_in(caplog)
        assert "\x1b" not in warning
        assert "\n" not in warning
        assert len(warning) < 500

    def test_keys_without_number(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        rows = [conversation(ASK, {**SAY, f"note_{i}": "It barks."}) for i in range(200)]
        chat, _ = draft(tokenizer, MARKED, *rows)
        assert len(chat.dropped) == len(caplog.records) == 50

    def test_roles_without_number(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        rows = [conversation({**ASK, "role": f"role_{i}"}, SAY) for i in range(200)]
        draft(tokenizer, MARKED, *rows, conversation(*CALLING))
        assert len(caplog.records) == 51
        assert "renders no tool calls" in caplog.text

    def test_a_pickle_has_no_findings(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = STRIPPING
        chat = ChatTemplate(tokenizer)
        before, row = pickle.dumps(chat), conversation(ASK, {**SAY, "content": "Hm.</think>Fox"}, prompt_turns=1)
        chat.draft(row)
        copied = pickle.loads(pickle.dumps(chat))
        assert chat.dropped
        assert copied.dropped == pickle.loads(before).dropped == ()
        assert copied.draft(row) == chat.draft(row)

    def test_descriptions_have_no_findings(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = STRIPPING
        encoder = RowEncoder(tokenizer)
        described = json.dumps(encoder.describe())
        encoder.encode([{"instruction": "2+2?", "output": "<think>Two and two.</think>4"}])
        assert json.dumps(encoder.describe()) == described

    def test_rows_that_are_made_up_are_not_reported(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The heads of a template are found with samples, also for rows that do not go through it."""
        encode(tokenizer, MARKED.replace("message.content", "''"), {"input_ids": [5, 6], "labels": [5, 6]})
        assert messages_in(caplog) == []

    def test_a_long_conversation_takes_bounded_time(self, tokenizer: PreTrainedTokenizerBase) -> None:
        turns = [{**turn, "content": f"{i} \n\n " * 200} for i in range(1000) for turn in (ASK, SAY)]
        tokenizer.chat_template = MARKED.replace("message.content", "(message.content | replace('\n', ''))")
        chat, row = ChatTemplate(tokenizer), conversation(*turns)
        drafted = chat.draft(row)
        start = time.perf_counter()
        chat.report.look(drafted.text, [turn.message() for turn in row.turns], (), False)
        assert time.perf_counter() - start < 2
        assert chat.dropped == ()


SHOWN_ROWS = {
    "single": [ASK, SAY],
    "white space": [{**ASK, "content": "\n  What\n\n is it? "}, {**SAY, "content": " The fox.\n\n"}],
    "multi": [ASK, SAY, {**ASK, "content": "And\tthat?"}, {**SAY, "content": "A dog."}],
    "unicode": [
        {**ASK, "content": "Wie heißt «das»? 中文 \U0001f98a"},
        {**SAY, "content": "Füchslein \u2028 \u00a0 \U0001f98a"},
    ],
    "markup": [{**ASK, "content": 'Say "<b>\\n</b>" & so on'}, {**SAY, "content": "<b>\n'x' & {{ y }}</b>"}],
    "blank": [{**ASK, "content": ""}, SAY],
    "reasoning": [ASK, {**SAY, "content": "<think>Hm. </think>\nFox"}],
    "system": [SYSTEM, ASK, SAY],
    "long system": [{**SYSTEM, "content": " Be\n\n brief. " * 9}, ASK, SAY, ASK, SAY],
    "calls": CALLING,
    "parallel": [ASK, {**SAY, "content": "", "tool_calls": [CALL, OTHER_CALL]}, RESULT, SAY],
}
# What a family refuses, or really drops.
NOT_SHOWN = {
    "gemma": ("system", "long system", "calls", "parallel"),
    "gemma3": ("calls", "parallel"),
    "llama3_1": ("parallel",),
    "llama3_2": ("parallel",),
    "mistral": ("system", "long system"),
}
SHOWN = [(name, kind) for name in FAMILIES for kind in SHOWN_ROWS if kind not in NOT_SHOWN.get(name, ())]


class TestNoFalseAlarm:
    @pytest.mark.parametrize(("name", "kind"), SHOWN)
    @pytest.mark.parametrize("has_prompt", [False, True])
    def test_our_templates(
        self,
        tokenizer: PreTrainedTokenizerBase,
        caplog: pytest.LogCaptureFixture,
        name: str,
        kind: str,
        has_prompt: bool,
    ) -> None:
        tokenizer.bos_token = "<|endoftext|>"
        takes_tools = kind in ("calls", "parallel") and name not in ("chatml", "smollm2", "llama3")
        prompt_turns = (2 if "system" in kind else 1) if has_prompt else None
        row = conversation(*SHOWN_ROWS[kind], tools=TOOLS if takes_tools else None, prompt_turns=prompt_turns)
        assert draft(tokenizer, family(name), row)[0].dropped == ()
        others = ("renders no tool calls", "writes today's date")
        assert [message for message in messages_in(caplog) if not any(other in message for other in others)] == []

    @pytest.mark.parametrize("enable_thinking", [False, True])
    def test_a_switch_for_reasoning(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, enable_thinking: bool
    ) -> None:
        row = conversation(ASK, SAY, prompt_turns=1, template_kwargs={"enable_thinking": enable_thinking})
        assert draft(tokenizer, family("qwen3"), row)[0].dropped == ()
        assert messages_in(caplog) == []

    @pytest.mark.parametrize(
        "content",
        [
            "message.content | tojson",
            "message.content | tojson(indent=2)",
            "message.content | string | pprint",
            "message.content.split() | join('\n')",
            "message.content | trim | replace('<think>', '[THINK]') | replace('</think>', '[/THINK]')",
        ],
    )
    def test_other_ways_to_write_the_same(self, tokenizer: PreTrainedTokenizerBase, content: str) -> None:
        template = MARKED.replace("message.content", f"({content})")
        row = conversation(
            {**ASK, "content": 'Who "is"\n\n\tit, \\ Zoë?'}, {**SAY, "content": "<think>Hm.</think>\nFox"}
        )
        assert draft(tokenizer, template, row)[0].dropped == ()

    def test_a_system_turn_that_is_moved(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = MARKED.replace("messages %}", "messages if message.role != 'system' %}")
        template += "{{ '[' + messages[0].content + ']' }}"
        assert draft(tokenizer, template, conversation(SYSTEM, ASK, SAY, ASK, SAY))[0].dropped == ()

    def test_tools_and_their_results(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        named = [*CALLING[:2], {**RESULT, "name": "weather"}, SAY]
        chat, _ = draft(tokenizer, family("qwen2_5"), conversation(*named, tools=TOOLS))
        assert chat.dropped == ()
        assert messages_in(caplog) == []


class TestRoles:
    @pytest.mark.parametrize(("template", "warned"), [(MARKED, True), (MARKED + "{# 'critic' #}", False)])
    def test_a_role_that_the_template_does_not_mention(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, template: str, warned: bool
    ) -> None:
        row = {"messages": [ASK, SAY, {"role": "critic", "content": "No."}, SAY]}
        encode(tokenizer, template, row, row)
        assert len(messages_in(caplog)) == warned
        assert ("does not mention the role 'critic'" in caplog.text) == warned

    def test_usual_roles(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        encode(tokenizer, MARKED, {"messages": [SYSTEM, ASK, SAY, RESULT, SAY]})
        assert messages_in(caplog) == []


class TestCalls:
    @pytest.mark.parametrize(
        ("message", "said"),
        [
            ({"content": "", "tool_calls": [CALL]}, '{"name": "weather", "arguments": {"city": "Zürich"}}'),
            ({"content": None, "tool_calls": [TEXT_CALL]}, '{"name": "weather", "arguments": {"city": "Zürich"}}'),
            (
                {"content": "Let me see.", "tool_calls": [CALL]},
                'Let me see.\n{"name": "weather", "arguments": {"city": "Zürich"}}',
            ),
            (
                {"content": " ", "tool_calls": [CALL, OTHER_CALL]},
                '[{"name": "weather", "arguments": {"city": "Zürich"}}, '
                '{"name": "time", "arguments": {"zone": "UTC"}}]',
            ),
            ({"content": "", "tool_calls": [{"name": "now"}]}, '{"name": "now", "arguments": {}}'),
            (
                {"content": "", "tool_calls": [{"function": {"name": "say", "arguments": "not JSON"}}]},
                '{"name": "say", "arguments": "not JSON"}',
            ),
        ],
    )
    @pytest.mark.parametrize("template", [CHATML, family("smollm2")], ids=["chatml", "smollm2"])
    def test_a_template_that_renders_none(
        self,
        tokenizer: PreTrainedTokenizerBase,
        caplog: pytest.LogCaptureFixture,
        template: str,
        message: dict[str, Any],
        said: str,
    ) -> None:
        rows = [{"messages": [ASK, {"role": "assistant", **message}]}] * 2
        for row in encode(tokenizer, template, *rows):
            assert row.status == OK
            assert learned(tokenizer, row) == f"{said}<|im_end|>\n"
        [warning] = messages_in(caplog)
        assert warning.startswith("The chat template renders no tool calls: they are put into the content as JSON")

    @pytest.mark.slow
    def test_smollm2_itself(self, smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
        [encoding] = RowEncoder(smollm2_tokenizer).encode([{"messages": CALLING[:2]}])
        said = '{"name": "weather", "arguments": {"city": "Zürich"}}<|im_end|>\n'
        assert learned(smollm2_tokenizer, encoding) == said

    def test_tools_but_no_calls(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The name of the tool that is called is in the text of such a template, whether its call is or not."""
        [encoding] = encode(tokenizer, TOOL_USE.replace(CALLS, ""), {"messages": CALLING[:2], "tools": TOOLS})
        assert learned(tokenizer, encoding) == '{"name": "weather", "arguments": {"city": "Zürich"}}<|im_end|>\n'

    @pytest.mark.parametrize(
        "condition", ["{{ raise_exception('No tools.') if tools }}", "{{ raise_exception('No tools.') if not tools }}"]
    )
    def test_calls_with_or_without_tools_only(self, tokenizer: PreTrainedTokenizerBase, condition: str) -> None:
        tools = TOOLS if "not tools" in condition else None
        [encoding] = encode(tokenizer, condition + TOOL_USE, {"messages": CALLING[:2], "tools": tools})
        assert learned(tokenizer, encoding) == '<call>weather {"city": "Zürich"}</call><|im_end|>\n'

    def test_what_describes_a_turn_is_no_loss(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        said = {**SAY, "language": "English", "timestamp": "now", "message_id": "a7", "toxic": False}
        encode(tokenizer, MARKED, {"messages": [ASK, said]})
        assert messages_in(caplog) == []
        encode(tokenizer, MARKED, {"messages": [ASK, {**said, "reasoning_content": "It barks."}]})
        assert len(messages_in(caplog)) == 1

    def test_keys_that_arrow_adds(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        def rows(**added: None) -> dict[str, Any]:
            call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Rome", **added}}}
            return {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": TOOLS}

        encode(tokenizer, TOOL_USE, rows())
        assert "hold null values" not in caplog.text
        encode(tokenizer, TOOL_USE, rows(unit=None))
        assert "hold null values" in caplog.text

    def test_a_template_that_raises_on_tools(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = "{{ raise_exception('No tools.') if tools }}" + MARKED
        with_tools, without = encode(
            tokenizer, template, {"messages": CALLING, "tools": TOOLS}, {"messages": CALLING, "tools": None}
        )
        assert with_tools.status == INVALID_ROW
        assert with_tools.why == "the chat template does not accept it: TemplateError: No tools."
        assert learned(tokenizer, without).startswith('{"name": "weather"')

    @pytest.mark.parametrize("template", [family("qwen2_5"), TOOL_USE], ids=["qwen2_5", "own"])
    @pytest.mark.parametrize("prompt_turns", [None, 1])
    def test_arguments_that_come_out_quoted(
        self,
        tokenizer: PreTrainedTokenizerBase,
        caplog: pytest.LogCaptureFixture,
        template: str,
        prompt_turns: int | None,
    ) -> None:
        row = conversation(ASK, {**SAY, "tool_calls": [TEXT_CALL]}, tools=TOOLS, prompt_turns=prompt_turns)
        chat, drafted = draft(tokenizer, template, row, row)
        assert r'"{\"city\": \"Zürich\"}"' in drafted.text  # as in training
        [warning] = messages_in(caplog)
        assert warning.startswith("The arguments of tool calls are JSON text")
        assert "Parse them (`json.loads`)" in warning
        assert chat.dropped == ()

    def test_arguments_as_text_that_are_refused(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = TOOL_USE.replace("call.function.arguments |", "call.function.arguments.items() | list |")
        called = {"role": "assistant", "content": "", "tool_calls": [TEXT_CALL]}
        [encoding] = encode(tokenizer, template, {"messages": [ASK, called]})
        assert encoding.status == INVALID_ROW
        assert "has no attribute 'items' (arguments of its tool calls are JSON text, not parsed)" in encoding.why

    @pytest.mark.parametrize("name", [name for name in FAMILIES if "gemma" not in name])
    @pytest.mark.parametrize("call", [CALL, TEXT_CALL], ids=["dict", "text"])
    def test_only_templates_that_quote_are_warned_about(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, name: str, call: dict[str, Any]
    ) -> None:
        quotes = call is TEXT_CALL and name in ("llama3_1", "llama3_2", "mistral", "qwen2_5")
        tokenizer.bos_token = "<|endoftext|>"
        called = {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "abcdefghi"}]}
        draft(tokenizer, family(name), conversation(ASK, called))
        assert ("arguments of tool calls are JSON text" in caplog.text) == quotes

    @pytest.mark.parametrize(
        "arguments",
        [
            "(call.function.arguments if call.function.arguments is string else call.function.arguments | tojson)",
            "(call.function.arguments | string)",
        ],
    )
    def test_templates_that_take_both(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, arguments: str
    ) -> None:
        template = TOOL_USE.replace("(call.function.arguments | tojson)", arguments)
        row = conversation(ASK, {**SAY, "tool_calls": [TEXT_CALL]})
        _, drafted = draft(tokenizer, template, row)
        assert '<call>weather {"city": "Zürich"}</call>' in drafted.text
        assert messages_in(caplog) == []


class TestWhatTrainingWarnsOf:
    def test_a_prompt_that_the_row_does_not_begin_with(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        template = MARKED.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
        encode(tokenizer, template, *[{"instruction": "2+2?", "output": "4"}] * 2)
        [warning] = messages_in(caplog)  # one for both rows
        assert "renders a prompt alone otherwise than with its completion" in warning
        assert "the prompt goes on with '<think>'" in warning

    def test_turns_without_marks(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        """The text has them all, but nothing is learned from the first."""
        last = MARKED.replace("message.role == 'assistant'", "message.role == 'assistant' and loop.last")
        [encoding] = encode(tokenizer, last, {"messages": [ASK, SAY, ASK, SAY]})
        assert learned(tokenizer, encoding) == "The fox.<|im_end|>\n"
        [warning] = messages_in(caplog)
        assert warning.startswith("The chat template marks fewer turns")

    def test_calls_without_marks(self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture) -> None:
        template = TOOL_USE.replace(CALLS, "").replace("{% endgeneration %}", "{% endgeneration %}" + CALLS)
        template = template.replace("{{ '<|im_end|>\n' }}{% endgeneration %}", "{% endgeneration %}")
        [encoding] = encode(tokenizer, template, {"messages": CALLING})
        assert "<call>weather" in text_of(tokenizer, encoding)
        assert learned(tokenizer, encoding) == "The fox."
        [warning] = messages_in(caplog)
        assert warning.startswith("The chat template marks fewer turns")

    def test_a_template_that_refuses_system_turns(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.bos_token = "<|endoftext|>"
        [encoding] = encode(tokenizer, family("gemma"), {"messages": [SYSTEM, ASK, SAY]})
        assert encoding.status == INVALID_ROW
        assert "Gemma has no system role" in encoding.why
