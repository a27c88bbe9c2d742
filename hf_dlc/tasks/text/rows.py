"""Rows of text as they are scored: conversations, instructions, raw text, token ids, and rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


_PREAMBLE = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
ALPACA_CUE = "### Response:\n"
ALPACA_PROMPT = f"{_PREAMBLE}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n{ALPACA_CUE}"
ALPACA_PROMPT_WITH_INPUT = (
    f"{_PREAMBLE}, paired with an input that provides further context. {_REQUEST}\n\n"
    f"### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n{ALPACA_CUE}"
)


@dataclass(frozen=True)
class Turn:
    """
    One message of a conversation.

    Args:
        role (`str`):
            `"system"`, `"user"`, `"assistant"`, `"tool"`, or a role that only the chat template knows.
        content (`str`):
            What is said; `""` where a message has no content.
        learned (`bool`, *optional*, defaults to `False`):
            Whether training learns from this turn: `True` for assistant turns, unless the message itself says
            otherwise by a `loss_weight`, `weight` or `train` of 0. Such a mark can only take a turn away: other
            weights count as 1, and a user turn is never learned from.
        tool_calls (`list[dict]`, *optional*):
            Calls in the form that chat templates read.
        call_text (`str`, *optional*):
            The same calls as the text they were given in, for chat templates that do not render calls.
        extra (`dict`, *optional*):
            Whatever else the message holds (`name`, `reasoning_content`, ...), handed to the chat template.
    """

    role: str
    content: str
    learned: bool = False
    tool_calls: list[dict] | None = None
    call_text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def message(self, renders_calls: bool = True) -> dict[str, Any]:
        r"""
        The turn as a message for a chat template.

        Args:
            renders_calls (`bool`, *optional*, defaults to `True`):
                Whether the template renders `tool_calls`; if not, they stand as JSON text in a line of their own
                behind the content: `call_text`, or else an object with `name` and `arguments`, or a list of them.

        Returns:
            `dict`: `role`, `content`, and `tool_calls` where there are any.

        Example:
        ```python
        >>> Turn("user", "Hi").message()
        {'role': 'user', 'content': 'Hi'}
        >>> call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
        >>> Turn("assistant", "So:", tool_calls=[call]).message(renders_calls=False)["content"]
        'So:\n{"name": "add", "arguments": {"a": 2}}'
        ```
        """
        if self.tool_calls and not renders_calls:
            calls = _calls_as_text(self.tool_calls) if self.call_text is None else self.call_text
            content = f"{self.content}\n{calls}" if self.content.strip() else calls
            return {"role": self.role, "content": content, **self.extra}
        calls = {"tool_calls": self.tool_calls} if self.tool_calls else {}
        return {"role": self.role, "content": self.content, **calls, **self.extra}


def _calls_as_text(tool_calls: list[dict]) -> str:
    calls = []
    for call in tool_calls:
        name, arguments = name_and_arguments(call)
        if isinstance(arguments, str):
            arguments = json_or_text(arguments)
        calls.append({"name": name, "arguments": {} if arguments is None else arguments} if name else call)
    return json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False, default=str)


def name_and_arguments(call: Any) -> tuple[str, Any]:
    """
    Name and arguments of a tool call.

    Args:
        call (`Any`):
            A call as it stands in `tool_calls`: its `name` and `arguments` may be under the key `function`.

    Returns:
        `tuple[str, Any]`: The name, `""` where there is none, and the arguments: a dict, or JSON text.

    Example:
    ```python
    >>> name_and_arguments({"type": "function", "function": {"name": "add", "arguments": {"a": 2}}})
    ('add', {'a': 2})
    ```
    """
    called = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
        return "", call
    return called["name"], called.get("arguments")


def json_or_text(text: str) -> Any:
    """
    The value of JSON text, or the text itself if it is none.

    Args:
        text (`str`):
            Any text.

    Returns:
        `Any`: The value.

    Example:
    ```python
    >>> json_or_text('{"a": 2}'), json_or_text("a")
    ({'a': 2}, 'a')
    ```
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested a thousand times
        return text


@dataclass(frozen=True)
class Conversation:
    """
    A row for the chat template.

    Args:
        turns (`tuple[Turn, ...]`):
            The messages in order.
        prompt_turns (`int`, *optional*):
            How many of the first turns are the prompt; everything after them is learned from, template text included.
            `None` where the learned turns are marked one by one.
        tools (`list`, *optional*):
            Tool schemas for the chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.
    """

    turns: tuple[Turn, ...]
    prompt_turns: int | None = None
    tools: list | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainText:
    """
    A row of raw text: `prompt` is not learned from, `completion` is. A text without a prompt has `prompt=""`.
    """

    prompt: str
    completion: str


@dataclass(frozen=True)
class Instruction:
    """
    A row of an instruction or a question with its response: one exchange for a chat template, or the Alpaca prompt.

    Args:
        instruction (`str`):
            What is asked.
        input (`str`):
            What it is asked about; `""` where there is nothing.
        response (`str`):
            The answer, which is learned from.
        system (`str`, *optional*, defaults to `""`):
            A system prompt.
        history (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Earlier questions and answers, which are a part of the prompt.
        tools (`list`, *optional*):
            Tool schemas for the chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.
    """

    instruction: str
    input: str
    response: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    tools: list | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def conversation(self) -> Conversation:
        r"""
        The row as one exchange, behind those of its history; the input follows the instruction after an empty line.

        Returns:
            [`Conversation`]: an optional system turn, earlier turns, a user turn, and the response as the completion.

        Example:
        ```python
        >>> [turn.content for turn in Instruction("Add.", "2 and 3", "5").conversation().turns]
        ['Add.\n\n2 and 3', '5']
        ```
        """
        asked = "\n\n".join(part for part in (self.instruction, self.input) if part)
        prompt = [Turn("system", self.system)] if self.system else []
        for question, answer in self.history:
            prompt += [Turn("user", question), Turn("assistant", answer)]
        prompt.append(Turn("user", asked))
        turns = (*prompt, Turn("assistant", self.response, learned=True))
        return Conversation(turns, len(prompt), self.tools, self.template_kwargs)

    def plain_text(self) -> PlainText:
        r"""
        The row in the Alpaca prompt, of which there is one wording with an input and one without.

        Returns:
            [`PlainText`]: the prompt, after the system prompt and an empty line where there is one, and the response.

        Raises:
            ValueError: If the row has a history, for which this prompt has no place.

        Example:
        ```python
        >>> Instruction("Add.", "2 and 3", "5").plain_text().prompt[-24:]
        '\n2 and 3\n\n### Response:\n'
        ```
        """
        if self.history:
            raise ValueError(
                "a row with a history of earlier turns needs a chat template, and the Alpaca prompt has no place for "
                "it. Use a tokenizer with a chat template, or leave the column out: columns={'history': 'ignore'}."
            )
        wording = ALPACA_PROMPT_WITH_INPUT if self.input else ALPACA_PROMPT
        prompt = wording.format(instruction=self.instruction, input=self.input)
        return PlainText(f"{self.system}\n\n{prompt}" if self.system else prompt, self.response)


@dataclass(frozen=True)
class TokenRow:
    """
    A row that is already tokenised: `labels` equal `input_ids`, or -100 where a token is not learned from. Tokens that
    an `attention_mask` of 0 marks as padding are left out.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Skipped:
    """
    A row that cannot be used.

    Args:
        reason (`str`):
            One of the statuses of `hf_dlc.scores.columns`.
        why (`str`, *optional*, defaults to `""`):
            The column, what stands in it, and what would be accepted.
    """

    reason: str
    why: str = field(default="", compare=False)


Row = Conversation | Instruction | PlainText | TokenRow | Skipped
