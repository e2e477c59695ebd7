"""Records to rows: five ways in which people write training data, as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kameleon.data.formats import Record
from kameleon.errors import DataError
from kameleon.text import with_system

_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
# From the most to the least structured. A record that has several kinds is read as the first of them.
KINDS = {
    "messages": "OpenAI chat",
    "prompt + completion": "a question and its answer",
    "instruction (+ input) + output": "Alpaca",
    "conversations": "ShareGPT",
    "text": "plain text, all of it learned",
}
_FIELDS = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "conversations": ("conversations",),
    "text": ("text",),
}


@dataclass(frozen=True)
class Row:
    """One example before it is encoded: a conversation, or plain text.

    Rows of that kind keep `prompt` and `completion` as they were written. `also` lists other right answers.
    `learned` holds the places of the assistant's messages that are learned; None stands for all of them.
    """

    number: int
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[Any, ...] = ()
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    also: tuple[str, ...] = ()
    learned: frozenset[int] | None = None


def kinds(record: Record) -> list[str]:
    """The kinds of row that a record holds with all their fields. The first is taken, the others are left aside.

    The original Alpaca records are an example: each holds its row a second time, as rendered text.
    """
    return [kind for kind, fields in _FIELDS.items() if all(record.value.get(field) is not None for field in fields)]


def make_row(record: Record) -> Row:
    """The record as a row. Raises DataError with the reason, without the row's number, which the caller knows."""
    if record.fault:
        raise DataError(record.fault)
    value, number = record.value, record.number
    begun = [*kinds(record), *(kind for kind in _FIELDS if kind in value)]
    if not begun:
        held = ", ".join(map(str, value)) or "nothing"
        raise DataError(f"it has only {held}; a row is one of: {'; '.join(KINDS)} (rename its fields or columns)")
    kind = begun[0]
    if kind == "text":
        return Row(number, text=_text(value, "text"))
    if kind == "messages":
        return Row(number, _messages(value["messages"]), tuple(_listed(value.get("tools") or [], "tools")))
    if kind == "conversations":
        return Row(number, _messages(_from_sharegpt(value)), tuple(_listed(value.get("tools") or [], "tools")))
    if kind == "instruction":
        parts = [_text(value, "instruction", may_be_empty=True)]
        parts += [_text(value, "input")] if value.get("input") else []
        prompt, completion = "\n\n".join(part for part in parts if part), _text(value, "output")
        if not prompt.strip():
            raise DataError("'instruction' is empty, and there is no 'input'")
    elif isinstance(value["prompt"], list):  # conversational: both sides are messages
        answers = _messages(_listed(value.get("completion"), "completion"))
        messages = _messages([*value["prompt"], *answers])
        tools = tuple(_listed(value.get("tools") or [], "tools"))
        return Row(number, messages, tools, learned=_answers(messages, first=len(value["prompt"])))
    else:
        prompt, completion = _text(value, "prompt"), _text(value, "completion")
    also = tuple(str(one) for one in _listed(value.get("also") or [], "also"))
    if not all(one.strip() for one in also):
        raise DataError("empty answer ('also')")
    return Row(number, _pair(prompt, completion), prompt=prompt, completion=completion, also=also)


def with_answer(row: Row, completion: str) -> Row:
    """The same question with another right answer."""
    assert row.prompt is not None
    return Row(row.number, _pair(row.prompt, completion), prompt=row.prompt, completion=completion)


def with_system_prompt(row: Row, system_prompt: str) -> Row:
    """The row with this system prompt; the row itself if it has one already, or is text."""
    messages = with_system(row.messages, system_prompt) if row.messages else []
    added = len(messages) - len(row.messages)
    learned = row.learned if row.learned is None else frozenset(place + added for place in row.learned)
    return replace(row, messages=tuple(messages), learned=learned) if added else row


def system_prompt_of(row: Row) -> str | None:
    """The text of the system message that a row begins with; None where it has none."""
    first = row.messages[0] if row.messages else {"role": "text"}
    return first["content"] if first["role"] == "system" else None


def shared_system_prompt(rows: Sequence[Row]) -> str | None:
    """The text of the system message that every row begins with; None where they differ, or one has none."""
    found = set(map(system_prompt_of, rows))
    return found.pop() if len(found) == 1 else None


def answers_apart(row: Row) -> list[Row]:
    """One row for each learned answer of a conversation: it ends with that answer, and all before it is its prompt."""
    learned = _answers(row.messages) if row.learned is None else row.learned
    return [replace(row, messages=row.messages[: i + 1], learned=frozenset([i])) for i in sorted(learned)]


def _answers(messages: Sequence[Mapping[str, Any]], first: int = 0) -> frozenset[int]:
    """The places of the assistant's messages, from place `first` on."""
    return frozenset(i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= first)


def _pair(prompt: str, completion: str) -> tuple[dict[str, Any], ...]:
    return {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}


def _text(value: Mapping[str, Any], key: str, *, may_be_empty: bool = False) -> str:
    got = value.get(key)
    if not isinstance(got, str):
        raise DataError(f"{key!r} is {'missing' if got is None else type(got).__name__}; expected text")
    if not may_be_empty and not got.strip():
        raise DataError(f"empty answer ({key!r})" if key in ("completion", "output") else f"{key!r} is empty")
    return got


def _listed(value: Any, key: str) -> Sequence[Any]:
    if isinstance(value, str):  # CSV has no lists
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{key!r} is text that is not a JSON list") from error
    if not isinstance(value, list):
        raise DataError(f"{key!r} is {type(value).__name__}; expected a list")
    return value


def _from_sharegpt(value: Mapping[str, Any]) -> list[Any]:
    system = value.get("system")  # some files have it beside the turns
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    for turn in _listed(value["conversations"], "conversations"):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise DataError("a turn of 'conversations' needs 'from' and 'value'")
        if turn["from"] not in tuple(_SHAREGPT):
            raise DataError(f"unknown role {turn['from']!r}; expected one of {', '.join(_SHAREGPT)}")
        messages.append({"role": _SHAREGPT[turn["from"]], "content": turn["value"]})
    return messages


def _check_arguments(calls: Any, at: int) -> None:
    """Raises DataError for arguments that are text but not JSON: an adapter would learn to write broken calls."""
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str) and arguments.strip():
            try:
                json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise DataError(f"the arguments of a call in message {at} are not JSON: {error}") from error


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    messages = _listed(value, "messages")
    answers = 0
    for at, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or "role" not in message:
            raise DataError(f"message {at} is not an object with a 'role'")
        role, content = message["role"], message.get("content")
        if role not in _ROLES:
            raise DataError(f"unknown role {role!r} in message {at}; expected one of {', '.join(_ROLES)}")
        if role == "assistant":
            answers += 1
            if not message.get("tool_calls") and not str(content or "").strip():
                raise DataError(f"empty answer (message {at})")
            _check_arguments(message.get("tool_calls"), at)
        if not isinstance(content, str) and (content is not None or role != "assistant"):
            raise DataError(f"message {at} has no text in 'content'")
    if not answers:
        raise DataError("it has no assistant message, so nothing would be learned")
    return tuple(messages)
