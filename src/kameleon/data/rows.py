"""Records to rows: five ways in which people write training data, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kameleon.data.columns import FIELDS, MORE_FIELDS, SYSTEM_FIELDS, TOOLS_FIELDS, describe_names
from kameleon.data.records import Record
from kameleon.data.turns import is_nothing, listed, read_messages, read_tools, unknown_fields, unknown_tool_fields
from kameleon.errors import DataError
from kameleon.text import with_system
from kameleon.text.template import Message
from kameleon.words import short_repr

_TURNS = ("messages", "conversations", "prompt", "completion")
# Fields that would change what is learned, with what to do where they are not read.
_NEVER_LOST = {
    "history": "put the earlier turns into it",
    "input": "put it into the question",
    "also": "other right answers belong to rows of a question and its answer, both as text",
    "weight": "rows cannot be weighted; leave a row out, or give an answer of 'messages' the weight 0",
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

    __repr__ = short_repr


def kinds(record: Record) -> list[str]:
    """The kinds of row that a record holds with all their fields. The first is taken, the others are left aside.

    The original Alpaca records are an example: each holds its row a second time, as rendered text.
    """
    value = _given(record)
    return [kind for kind, fields in FIELDS.items() if all(field in value for field in fields)]


def make_row(record: Record) -> Row:
    """The record as a row. Raises DataError with the reason, without the row's number, which the caller knows."""
    if record.fault:
        raise DataError(record.fault)
    kind, value, number = _kind(record), _given(record), record.number
    for field in _unread(record):
        if field in _NEVER_LOST and (kind != "text" or field == "weight"):
            raise DataError(f"{field!r} is not read beside {kind!r}: {_NEVER_LOST[field]}")
    if kind == "text":
        return Row(number, text=_text(value, "text"))
    if kind in ("messages", "conversations"):
        return _conversation(number, read_messages(value.get(kind), kind), value)
    if kind == "prompt" and isinstance(value.get("prompt"), list):  # conversational: both sides are messages
        asked = read_messages(value["prompt"], "prompt")
        answered = read_messages(value.get("completion"), "completion")
        return _conversation(number, [*asked, *answered], value, first=len(asked))
    prompt, completion = (
        _asked(value) if kind == "instruction" else _text(value, "prompt"),
        _text(value, FIELDS[kind][1]),
    )
    also = tuple(str(one) for one in listed(value.get("also") or [], "also"))
    if not all(one.strip() for one in also):
        raise DataError("empty answer ('also')")
    row = _conversation(number, [*_history(value), *_pair(prompt, completion)], value)
    if len(row.messages) > 2 or row.tools:
        return replace(row, also=also)
    return replace(row, prompt=prompt, completion=completion, also=also)


def unread_fields(record: Record) -> list[str]:
    """Names of fields of a record that hold something and are not read; "messages[].FIELD" for a field of messages,
    "tools[].FIELD" for one of tools.

    Fields of whole kinds that were left aside are not among them.
    """
    if record.fault or not _begun(record):
        return []
    value = _given(record)
    is_question = {field: isinstance(value.get(field), str) for field in FIELDS["prompt"]}
    turns = [field for field in _TURNS if field in value and not is_question.get(field)]
    strange = {field: unknown_fields(value[field]) for field in turns}
    strange |= {field: unknown_tool_fields(value[field]) for field in TOOLS_FIELDS if field in value}
    return [*_unread(record), *(f"{field}[].{one}" for field, names in strange.items() for one in sorted(names))]


def with_answer(row: Row, completion: str) -> Row:
    """The same question with another right answer."""
    messages = (*row.messages[:-1], {"role": "assistant", "content": completion})
    return replace(row, messages=messages, completion=row.completion and completion, also=())


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


def learned_answers(row: Row) -> list[int]:
    """The places of the messages that are learned."""
    return _answers(row.messages) if row.learned is None else sorted(row.learned)


def answers_apart(row: Row) -> list[Row]:
    """One row for each learned answer of a conversation: it ends with that answer, and all before it is its prompt."""
    return [
        replace(row, messages=row.messages[: place + 1], learned=frozenset([place])) for place in learned_answers(row)
    ]


def _given(record: Record) -> dict[str, Any]:
    """The fields of a record that hold something."""
    return {field: value for field, value in record.value.items() if not is_nothing(value)}


def _begun(record: Record) -> list[str]:
    """The kinds of row that a record holds, whole ones first, then those of which it holds the first field."""
    return [*kinds(record), *(kind for kind in FIELDS if kind in record.value)]


def _kind(record: Record) -> str:
    begun = _begun(record)
    absent = [field for field in FIELDS[begun[0]] if field not in record.value] if begun else []
    if absent or not begun:
        told = "".join(f"{field!r} is missing; " for field in absent)
        raise DataError(told + describe_names([str(name) for name in record.value], is_table=False))
    return begun[0]


def _unread(record: Record) -> list[str]:
    """Fields that hold something and belong neither to the kind that is taken nor to one that is whole too."""
    read = {field for kind in kinds(record) or _begun(record)[:1] for field in (*FIELDS[kind], *MORE_FIELDS[kind])}
    return [str(field) for field, value in _given(record).items() if field not in read and value not in ("", [], {})]


def _conversation(number: int, messages: list[Message], value: Mapping[str, Any], *, first: int = 0) -> Row:
    """A row of messages, with what stands beside them. Answers before place `first` or of weight 0 are not learned."""
    if not any(message["role"] == "assistant" for message in messages[first:]):
        raise DataError("it has no assistant message, so nothing would be learned")
    if any(message.get("weight") == 1 for message in messages[:first]):
        raise DataError("a message of 'prompt' has weight 1, but only 'completion' is learned: use 'messages'")
    system = _system(value, messages)
    before: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    learned = [place for place in _answers(messages) if place >= first and messages[place].get("weight") != 0]
    whole = tuple({key: one for key, one in message.items() if key != "weight"} for message in [*before, *messages])
    every = learned == _answers(messages)
    return Row(number, whole, _tools(value), learned=None if every else frozenset(len(before) + at for at in learned))


def _answers(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the assistant's messages."""
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def _system(value: Mapping[str, Any], messages: Sequence[Message]) -> str | None:
    """The system prompt that stands beside the turns; None where there is none, or where they begin with the same."""
    told = {_text(value, field) for field in SYSTEM_FIELDS if value.get(field) not in (None, "")}
    own = [message["content"] for message in messages if message["role"] == "system"]
    if len(told | set(own)) > 1 and told:
        raise DataError("it has two system prompts that differ: keep one")
    return next(iter(told)) if told and not own else None


def _tools(value: Mapping[str, Any]) -> tuple[Any, ...]:
    held = [field for field in TOOLS_FIELDS if value.get(field)]
    if len(held) > 1:
        raise DataError(f"it has both {' and '.join(map(repr, held))}: keep one")
    return read_tools(value[held[0]], held[0]) if held else ()


def _history(value: Mapping[str, Any]) -> list[Message]:
    """Alpaca's earlier turns, in pairs of question and answer."""
    turns: list[Message] = []
    for pair in listed(value.get("history") or [], "history"):
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(one, str) and one.strip() for one in pair)
        ):
            raise DataError("'history' holds what is no pair of question and answer, both as text")
        turns += _pair(*pair)
    return turns


def _asked(value: Mapping[str, Any]) -> str:
    """Alpaca's question: the instruction, and the input below it."""
    parts = [_text(value, "instruction", may_be_empty=True)]
    if value.get("input") and str(value["input"]).strip():
        parts.append(_text(value, "input"))
    prompt = "\n\n".join(part for part in parts if part)
    if not prompt.strip():
        raise DataError("'instruction' is empty, and there is no 'input'")
    return prompt


def _pair(prompt: str, completion: str) -> tuple[Message, Message]:
    return {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}


def _text(value: Mapping[str, Any], key: str, *, may_be_empty: bool = False) -> str:
    got = value.get(key)
    if not isinstance(got, str):
        raise DataError(f"{key!r} is {'missing' if got is None else type(got).__name__}; expected text")
    if not may_be_empty and not got.strip():
        raise DataError(f"empty answer ({key!r})" if key in ("completion", "output") else f"{key!r} is empty")
    return got
