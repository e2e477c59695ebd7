"""Turns of conversations, as files of OpenAI's, ShareGPT's and LLaMA-Factory's kind have them, to OpenAI's messages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kameleon.errors import DataError
from kameleon.text.turns import THOUGHTS, Message

_ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name, which the server reads so too
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLS = ("function_call", "tool_call")
"""Roles whose text is the call of a function, or several, as JSON."""
_NAMES = {"from": "role", "value": "content"}  # ShareGPT's
_LEARN = ("train", "training", "trainable", "loss", "mask")
"""Fields of other programs that say whether an answer is learned."""
_SPEAKERS = ("system", "developer", "user", "assistant", "human", "gpt")
_CALL_FIELDS = ("tool_calls", "function_call")
_KNOWN = {"role", "content", "weight", "tool_call_id", *_CALL_FIELDS, *THOUGHTS, *_LEARN}
_OF_PARTS = frozenset({"type", "text"})
_OF_CALLS = frozenset({"id", "type", "index", "function", "name", "arguments"})
_OF_TOOLS = frozenset({"type", "function", "name", "description", "parameters", "strict"})


def is_nothing(value: Any) -> bool:
    """Whether a field says nothing: null, or not a number, as tables write an empty cell."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def listed(value: Any, field: str) -> list[Any]:
    """A list, or its JSON text (CSV has no lists). Raises DataError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{field!r} is text that is not a JSON list") from error
    if not isinstance(value, list):
        raise DataError(f"{field!r} is {type(value).__name__}; expected a list")
    return value


def read_messages(value: Any, field: str) -> list[Message]:
    """The turns of `field` as messages with OpenAI's names. Each has `role` and `content`: text, or None beside calls.

    An assistant's `weight` (0 or 1) stays on its message. Raises DataError.
    """
    return [_message(turn, f"message {at}") for at, turn in enumerate(listed(value, field), start=1)]


def unknown_fields(value: Any) -> set[str]:
    """Names of fields of turns that hold something and are not known here. Only a chat template could read them.

    "content[].FIELD" is a field of a part of the content, "tool_calls[].FIELD" one of a call or of its function.
    """
    turns = [{_NAMES.get(key, key): one for key, one in turn.items()} for turn in _objects(value)]
    own = {str(key) for turn in turns for key, one in turn.items() if not is_nothing(one) and not _is_read(key, turn)}
    contents = [turn["content"] for turn in turns if isinstance(turn.get("content"), list)]
    parts = [part for content in contents for part in _objects(content)]
    calls = [call for turn in turns for field in _CALL_FIELDS for call in _objects(turn.get(field))]
    return own | _unknown("content[].", parts, _OF_PARTS) | _unknown("tool_calls[].", calls, _OF_CALLS)


def unknown_tool_fields(value: Any) -> set[str]:
    """Names of fields of tools and of their functions that hold something and are not known here."""
    return _unknown("", _objects(value), _OF_TOOLS)


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or the one object; also out of JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # text for people
            return []
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def _unknown(where: str, objects: Sequence[Mapping[str, Any]], known: frozenset[str]) -> set[str]:
    inner = [one["function"] for one in objects if isinstance(one.get("function"), dict)]
    return {
        f"{where}{key}"
        for one in (*objects, *inner)
        for key, held in one.items()
        if key not in known and not is_nothing(held)
    }


def _is_read(key: str, turn: Message) -> bool:
    """Whether a turn's field has a meaning here. A name is the function's, beside a call or its result; only the
    assistant has thoughts."""
    if key == "name":
        return turn.get("role") not in _SPEAKERS or "tool_call_id" in turn
    return key in _KNOWN and (key not in THOUGHTS or _ROLES.get(str(turn.get("role"))) == "assistant")


def read_tools(value: Any, field: str) -> tuple[Any, ...]:
    """Definitions of tools in OpenAI's form; a bare function is put into it. Raises DataError."""
    tools = listed(value, field)
    if not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{field!r} holds what is no object; a tool is an object with its name and parameters")
    return tuple({"type": "function", "function": tool} if _is_bare(tool) else tool for tool in tools)


def _is_bare(tool: Any) -> bool:
    return isinstance(tool, dict) and "name" in tool and "function" not in tool


def _message(turn: Any, where: str) -> Message:
    held = {str(key): one for key, one in turn.items() if not is_nothing(one)} if isinstance(turn, dict) else {}
    message: Message = {_NAMES.get(key, key): one for key, one in held.items()}
    if len(message) < len(held):
        raise DataError(f"{where} holds both OpenAI's names ('role', 'content') and ShareGPT's ('from', 'value')")
    if "role" not in message:
        raise DataError(f"{where} is not an object with a 'role' (or 'from')")
    told = message["role"]
    if told not in tuple(_ROLES):
        raise DataError(f"unknown role {told!r} in {where}; expected one of {', '.join(_ROLES)}")
    message |= {"role": _ROLES[told], "content": _content(message.get("content"), where)}
    _check_learning(message, where)
    if told in _CALLS:
        message["function_call"], message["content"] = message["content"], None
    _put_calls(message, where)
    if no_text := [field for field in THOUGHTS if not isinstance(message.get(field, ""), str)]:
        raise DataError(f"{where} has no text in {no_text[0]!r}")
    empty = not (message["content"] or "").strip()
    if message["role"] == "assistant" and empty and not message.get("tool_calls"):
        raise DataError(f"empty answer ({where})")
    if message["role"] != "assistant" and message["content"] is None:
        raise DataError(f"{where} has no text in 'content'")
    return message


def _put_calls(message: Message, where: str) -> None:
    """Write the calls of a message, under OpenAI's newer or older name, as `tool_calls`."""
    calling = [field for field in _CALL_FIELDS if message.get(field)]
    if len(calling) > 1:
        raise DataError(f"{where} holds both 'function_call' and 'tool_calls'")
    if calling:
        message["tool_calls"] = _calls(message.pop(calling[0]), where)
        _check_arguments(message["tool_calls"], where)


def _check_learning(message: Message, where: str) -> None:
    marks = [mark for mark in _LEARN if mark in message]
    if marks:
        raise DataError(f"{where} has {marks[0]!r}, which is not known here; an answer of 'weight' 0 is not learned")
    if message.get("weight", 1) not in (0, 1):
        raise DataError(f"{where} has weight {message['weight']!r}; it is 0 (only context) or 1 (learned)")
    if message.get("weight") == 1 and message["role"] != "assistant":
        raise DataError(f"{where} has weight 1, but only the assistant's messages can be learned")


def _check_arguments(calls: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raises DataError for arguments that are text but not JSON: an adapter would learn to write broken calls."""
    for arguments in (call["function"]["arguments"] for call in calls):
        if isinstance(arguments, str) and arguments.strip():
            try:
                json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise DataError(f"the arguments of a call in {where} are not JSON: {error}") from error


def _content(content: Any, where: str) -> str | None:
    """The text of a message; text that is written in parts is joined, as the server does."""
    if content is None or isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = f" but {part['type']!r}" if isinstance(part, dict) and part.get("type") not in (None, "text") else ""
            raise DataError(f"{where} has no text in 'content'{kind}")
    return "".join(part["text"] for part in parts)


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls of functions, as objects or as JSON text, as OpenAI's `tool_calls`; a bare function is put into one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is the call of a function, but not in JSON") from error
    calls = value if isinstance(value, list) else [value]
    calls = [{"type": "function", "function": one} if _is_bare(one) else one for one in calls]
    functions = [one.get("function") if isinstance(one, dict) else None for one in calls]
    if not calls or not all(isinstance(one, dict) and "name" in one and "arguments" in one for one in functions):
        raise DataError(f"{where} is the call of a function, but not an object with 'name' and 'arguments'")
    return calls
