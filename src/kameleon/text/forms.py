"""What a chat template writes of a conversation, and the form in which it reads it.

A template is a program that takes what it knows and leaves out the rest without a word. So each conversation's shape is
rendered once with a mark in place of every text. A form in which all marks are written is taken; if there is none, the
conversation is refused by the names of the parts that would be lost.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text.turns import THOUGHTS, Message, Turns, thought_of

_INLINE_THOUGHT = re.compile(r"\A(\s*(?:<think>)?\s*)(.*?)(\s*</think>\s*)(.*)\Z", re.DOTALL)
_MOST_SHAPES = 4096
TurnsOf = Callable[[Sequence[Message], Sequence[Any]], Turns]
"""Messages and tools to rendered turns."""


@dataclass(frozen=True)
class Form:
    """How the parts of messages are given to a template. The default is as OpenAI's clients write them."""

    empty_content: bool = False
    """Whether a message without content gets "" in its place."""
    arguments_as_text: bool = False
    """Whether a call's arguments are JSON text, not an object."""
    short_ids: bool = False
    """Whether ids of calls are nine letters and digits, as Mistral's templates demand. Calls without an id, and results
    without one, are numbered in their order."""
    content_in_parts: bool = False
    """Whether content is a list of parts, not text."""
    thought_inside: bool = False
    """Whether the thought of a learned answer stands in tags at the beginning of its content, not beside it."""
    full_tools: bool = False
    """Whether a tool without a description or parameters gets empty ones."""

    def of(self, messages: Sequence[Message], learned: Collection[int]) -> list[Message]:
        """The messages in this form; `learned` holds the places of learned answers. The texts are the same."""
        numbered = _numbered(messages) if self.short_ids else messages
        return [self._message(message, is_learned=place in learned) for place, message in enumerate(numbered)]

    def of_tools(self, tools: Sequence[Any]) -> list[Any]:
        """The definitions of tools in this form."""
        return [_full(tool) for tool in tools] if self.full_tools else list(tools)

    def _message(self, message: Message, *, is_learned: bool) -> Message:
        told = dict(message)
        if self.thought_inside and is_learned and (thought := thought_of(message)):
            for key in THOUGHTS:
                if told.pop(key, None):
                    told["content"] = f"<think>\n{thought.strip()}\n</think>\n\n{message.get('content') or ''}"
        if self.empty_content and told.get("content") is None:
            told["content"] = ""
        if self.content_in_parts and isinstance(told.get("content"), str):
            told["content"] = [{"type": "text", "text": told["content"]}]
        if calls := told.get("tool_calls"):
            told["tool_calls"] = [self._call(call) for call in calls]
        if self.short_ids and isinstance(told.get("tool_call_id"), str):
            told["tool_call_id"] = _short(told["tool_call_id"])
        return told

    def _call(self, call: Any) -> Any:
        if not isinstance(call, Mapping):
            return call
        told = {**call, "id": _short(call["id"])} if self.short_ids and isinstance(call.get("id"), str) else dict(call)
        function = call.get("function")
        if isinstance(function, Mapping) and "arguments" in function:
            told["function"] = {**function, "arguments": self._arguments(function["arguments"])}
        return told

    def _arguments(self, arguments: Any) -> Any:
        if not self.arguments_as_text:
            return _parsed(arguments)
        return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _parsed(arguments: Any) -> Any:
    """A call's arguments as an object: OpenAI sends JSON text, which templates would quote a second time.

    Clients send empty text for a call without arguments. Text that is no JSON stays as it is: a model wrote it, and may
    read it.
    """
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments.strip() or "{}")
    except (ValueError, RecursionError):
        return arguments


def _numbered(messages: Sequence[Message]) -> list[Message]:
    """The messages with a number in place of each missing id of a call or of its result."""
    calls, results = itertools.count(1), itertools.count(1)
    numbered: list[Message] = []
    for message in messages:
        told = dict(message)
        if held := told.get("tool_calls"):
            told["tool_calls"] = [
                call if not isinstance(call, Mapping) or call.get("id") else {**call, "id": str(next(calls))}
                for call in held
            ]
        if told["role"] == "tool" and not told.get("tool_call_id"):
            told["tool_call_id"] = str(next(results))
        numbered.append(told)
    return numbered


def _full(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
        return tool
    nothing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    held = {key: one for key, one in tool["function"].items() if one is not None}
    return {**tool, "function": {**nothing, **held}}


def _short(call_id: str) -> str:
    letters = re.sub(r"[^a-zA-Z0-9]", "", call_id)
    return letters[-9:].rjust(9, "0")


_FORMS = sorted(
    itertools.starmap(Form, itertools.product((False, True), repeat=len(fields(Form)))),
    key=lambda form: sum(astuple(form)),
)


class Forms:
    """Finds the form for each shape of conversation, and remembers it."""

    def __init__(self, *, knows_thoughts: bool) -> None:
        self._forms = [form for form in _FORMS if knows_thoughts or not form.thought_inside]
        self._found: dict[str, Form | DataError] = {}

    def find(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any],
        learned: Sequence[int],
        turns_of: TurnsOf,
    ) -> Form:
        """The first form in which the template writes all parts. `turns_of` renders messages and tools.

        The parts of answers at the places `learned` must be in these answers. Thoughts of others may be left out, as
        many templates do. Raises DataError naming parts that no form saves, or the template's own refusal.
        """
        marked = _Marked(messages, tools, learned)
        shape = json.dumps([marked.messages, marked.tools, list(learned)])
        found = self._found.get(shape)  # threads share what is found, so it is looked up once
        if found is None:
            try:
                found = self._search(marked, learned, turns_of)
            except DataError as error:
                found = type(error)(str(error))  # without its traceback, which holds the messages
            if len(self._found) >= _MOST_SHAPES:
                self._found.clear()
            self._found[shape] = found
        if isinstance(found, DataError):
            raise type(found)(str(found))
        return found

    def _search(self, marked: _Marked, learned: Sequence[int], turns_of: TurnsOf) -> Form:
        tried: list[tuple[list[Message], list[Any]]] = []
        fewest: list[str] | None = None
        refusal: DataError | None = None
        for form in self._forms:
            told = form.of(marked.messages, learned), form.of_tools(marked.tools)
            if told in tried:
                continue
            tried.append(told)
            try:
                lost = marked.lost(turns_of(*told))
            except DataError as error:
                if isinstance(error, RewrittenTurnsError) and len(learned) > 1:
                    raise  # each answer may be learned apart
                refusal = refusal or error
                continue
            if not lost and form.thought_inside and len(learned) > 1:
                raise RewrittenTurnsError("an answer's thought is not in the prompts of later answers")
            if not lost:
                return form
            if fewest is None or len(lost) < len(fewest):
                fewest = lost
        if fewest is None:
            assert refusal is not None
            raise refusal
        raise DataError(
            f"the base's chat template leaves out {' and '.join(dict.fromkeys(fewest))}: take a base whose template "
            "writes that, or say it in the content of a message"
        )


class _Marked:
    """A conversation with a mark in place of each text; two conversations of one shape have the same marks."""

    def __init__(self, messages: Sequence[Message], tools: Sequence[Any], learned: Sequence[int]) -> None:
        self._learned = learned
        self._parts: list[tuple[str, int, str]] = []  # mark, place of its answer (-1: anywhere), what it is
        self._ids: dict[str, str] = {}
        self.messages = [self._message(message, place) for place, message in enumerate(messages)]
        self.tools = [self._tool(tool) for tool in tools]

    def lost(self, turns: Turns) -> list[str]:
        """The names of parts whose marks are not in the text, or not in the answer in which they are learned."""
        text = turns.text.lower()
        answers = {place: turn.answer.lower() for place, turn in zip(self._learned, turns.turns, strict=False)}
        return [name for mark, place, name in self._parts if mark not in answers.get(place, text)]

    def _mark(self, name: str, place: int = -1) -> str:
        mark = f"kmlpart{len(self._parts)}end"
        self._parts.append((mark, place, name))
        return mark

    def _message(self, message: Message, place: int) -> Message:
        told: Message = {"role": message["role"]}
        where = f"in message {place + 1}"
        for key, value in message.items():
            if key == "content" and isinstance(value, str) and value.strip():
                told[key] = self._content(value, place, is_answer=message["role"] == "assistant")
            elif key in THOUGHTS and isinstance(value, str) and value.strip():
                told[key] = self._thought(f"`{key}` {where}", place)
            elif key == "tool_calls" and value:
                calls = value if isinstance(value, list) else [None]  # which no template can write
                told[key] = [self._call(call, f"`tool_calls` {where}", place) for call in calls]
            elif key == "tool_call_id" and isinstance(value, str):
                told[key] = self._id(value)
            elif key == "name" and isinstance(value, str):
                told[key] = "kmlname"
            elif key in ("content", "tool_call_id", "name", "role"):
                told[key] = value
        return told

    def _thought(self, name: str, place: int) -> str:
        """Only a learned thought must be written."""
        return self._mark(name, place) if place in self._learned else "kmlthought"

    def _content(self, content: str, place: int, *, is_answer: bool) -> str:
        name = f"`content` of message {place + 1}"
        thinks = _INLINE_THOUGHT.match(content)
        if not thinks:
            return self._mark(name, place)
        opening, thought, closing, rest = thinks.groups()
        if thought:
            thought = self._thought(f"the thought in message {place + 1}", place) if is_answer else self._mark(name)
        return opening + thought + closing + (self._mark(name, place) if rest.strip() else rest)

    def _call(self, call: Any, name: str, place: int) -> Any:
        if not isinstance(call, Mapping):
            return self._mark(name, place)
        bare = not isinstance(call.get("function"), Mapping)
        function = dict(call if bare else call["function"])
        function["name"] = self._mark(name, place)
        if "arguments" in function:
            given = _parsed(function["arguments"])
            if isinstance(given, str):
                function["arguments"] = self._mark(name, place)
            elif given:
                function["arguments"] = {self._mark(name, place): self._mark(name, place)}
        told = function if bare else {**call, "function": function}
        return {**told, "id": self._id(call["id"])} if isinstance(call.get("id"), str) else told

    def _id(self, call_id: str) -> str:
        """The same id for the same call, as long as the one that came: some templates want nine letters."""
        return self._ids.setdefault(call_id, f"{len(self._ids):x}".rjust(len(call_id), "0"))

    def _tool(self, tool: Any) -> Any:
        if not isinstance(tool, Mapping):
            return self._mark("`tools`")
        if not isinstance(tool.get("function"), Mapping):
            return {key: self._mark("`tools`") if isinstance(one, str) else one for key, one in tool.items()}
        function = {**tool["function"], "name": self._mark("`tools`")}
        if isinstance(function.get("description"), str):
            function["description"] = "kmlabout"
        parameters = function.get("parameters")
        if isinstance(parameters, Mapping) and parameters.get("properties"):
            kept = {self._mark("`tools`"): {"type": "string", "description": "kmlabout"}}
            function["parameters"] = {"type": "object", "properties": kept}
        return {**tool, "function": function}
