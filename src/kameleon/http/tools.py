"""Tools: the style in which a chat template has calls written, and calls read from generated text."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kameleon.generation.json_schema import closed, moved
from kameleon.http.bodies import ChatBody, NamedTool, Tool
from kameleon.http.errors import ApiError

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_JSON = json.JSONDecoder(strict=False)  # models write line breaks into strings as they are
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
# Without any of these a schema says nothing of an object's parameters.
_SHAPES = frozenset(
    {"properties", "patternProperties", "additionalProperties", "propertyNames", "required", "minProperties"}
    | {"$ref", "allOf", "anyOf", "oneOf", "enum", "const"}
)


class CallStyle(Enum):
    """How a template writes the calls of earlier turns. The model writes its own calls in the same way."""

    TAGGED = "Hermes, Qwen 2.5 and 3: JSON with name and arguments between tags"
    LISTED = "Mistral: after a special token, a JSON list of calls"
    BARE = "Llama 3: one JSON object with name and parameters"

    @property
    def arguments_key(self) -> str:
        return "parameters" if self is CallStyle.BARE else "arguments"


def style_of(template: str | None) -> CallStyle | None:
    """The style of a chat template; None for one that does not show how calls are written."""
    if template is None or not takes_tools(template):
        return None
    if _OPEN in template:
        # Qwen3-Coder's calls are XML between the same tags.
        return None if "<function=" in template else CallStyle.TAGGED
    if "[TOOL_CALLS]" in template:
        return CallStyle.LISTED
    return CallStyle.BARE if '"parameters"' in template else None


def takes_tools(template: str | None) -> bool:
    """Whether a chat template uses tools at all."""
    return template is not None and re.search(r"\btools\b", template) is not None


@dataclass(frozen=True)
class Call:
    """One call of a function; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class ToolPlan:
    """The tools of one request: the template's input, and the constraints of the answer."""

    rendered: list[dict[str, Any]]
    parameters: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """For each tool's name the schema of its arguments."""
    style: CallStyle | None = None
    opening: str = ""
    """Text that is put before the answer if a call is demanded; the model goes on from it."""
    constraints: dict[str, str] | None = None
    most: int | None = None

    def reader(self) -> CallReader:
        """A new reader for one answer."""
        return CallReader(self)


def plan_tools(body: ChatBody, template: str | None) -> ToolPlan:
    """The plan for a request's `tools` and `tool_choice`. Raises ApiError if the base's template cannot do it."""
    choice = body.tool_choice
    if not body.tools or choice == "none":
        if choice not in (None, "none", "auto"):
            raise _fault("tool_choice", "tool_choice asks for a call, but there are no tools")
        return ToolPlan([])
    if not takes_tools(template):
        raise _fault(
            "tools", "this base's chat template knows no tools; leave them out, or serve a base whose template does"
        )
    style = style_of(template)
    most = 1 if body.parallel_tool_calls is False else None
    parameters = _by_name(body.tools)
    plan = ToolPlan([tool.model_dump(exclude_none=True) for tool in body.tools], parameters, style, most=most)
    if choice in (None, "auto"):
        return plan
    if style is None:
        raise _fault("tool_choice", "this base's template does not show how calls are written: only auto and none work")
    if body.response_format is not None and body.response_format.type != "text":
        raise _fault("response_format", "an answer that must be a call cannot have another form as well")
    demanded = parameters
    if isinstance(choice, NamedTool):
        name = choice.function.name
        if name not in parameters:
            raise _fault("tool_choice", f"no tool {name[:80]!r}; there are {', '.join(parameters)[:400]}")
        demanded = {name: parameters[name]}
    opening = f"{_OPEN}\n" if style is CallStyle.TAGGED else ""
    constraints = {"json_schema": json.dumps(_schema(demanded, style))}
    return ToolPlan(plan.rendered, parameters, style, opening, constraints, 1)


class CallReader:
    """Reads an answer piece by piece, and returns its text and its calls, each call as soon as it is complete.

    Text that looks like a call but is none (no JSON, no such tool) stays text.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self._plan, self._held = plan, ""
        self._is_after_call = self._is_text = False  # whether what is behind us is a call, or text that began an answer
        self.calls = 0
        """Calls found so far."""

    def take(self, text: str, *, finished: bool) -> list[str | Call]:
        """Read new text; returns the text and calls that later text cannot change, without empty strings."""
        self._held += text
        if self._plan.style is None:
            found: list[str | Call] = [self._held]
            self._held = ""
        elif self._plan.style is CallStyle.TAGGED and not self._plan.opening:
            found = self._tagged(finished=finished)
        else:
            found = self._whole(finished=finished)
        return [one for one in found if one != "" and not self._is_surplus(one)]

    def _tagged(self, *, finished: bool) -> list[str | Call]:
        found: list[str | Call] = []
        while (at := self._held.find(_OPEN)) >= 0:
            end, call = self._call_behind(at + len(_OPEN), finished=finished)
            if end is None:
                break
            before = self._held[:at]
            found += [before if call is None else before.rstrip(), call or self._held[at:end]]
            self._held = self._held[end:]
            self._is_after_call = call is not None
        else:
            # White space before a call, or behind the last one, is dropped.
            certain = len(self._held) if finished else _certain(self._held)
            if not finished or not self._is_after_call or self._held.strip():
                found.append(self._held[:certain])
                self._is_after_call = self._is_after_call and certain == 0
            self._held = self._held[certain:]
        return found

    def _call_behind(self, start: int, *, finished: bool) -> tuple[int | None, Call | None]:
        """The place where the call that begins at `start` ends, and the call; its end tag may be missing.

        None for the place where later text decides. Text that is no call ends where the next call may begin.
        """
        behind = self._held[start:].lstrip()
        value, end = _decoded(self._held, start) if behind.startswith("{") else (None, start)
        if value is None:
            return (None if not finished and behind[:1] in ("", "{") else start), None
        call = self._call(value)
        rest = self._held[end:].lstrip()
        if call is None:
            return end, None
        if not finished and rest != _CLOSE and _CLOSE.startswith(rest):
            return None, None
        return (len(self._held) - len(rest) + len(_CLOSE) if rest.startswith(_CLOSE) else end), call

    def _whole(self, *, finished: bool) -> list[str | Call]:
        """For answers that are calls as a whole, or text: one that begins as JSON is held until it ends."""
        if not finished and not self._is_text and self._held.lstrip()[:1] in ("", "{", "["):
            return []
        held, self._held = self._held, ""
        calls = [] if self._is_text else [self._call(value) for value in _values(held)]
        self._is_text = True
        return [call for call in calls if call is not None] if calls and None not in calls else [held]

    def _call(self, value: Any) -> Call | None:
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._plan.parameters:
            return None
        arguments = value.get("arguments", value.get("parameters"))
        if arguments is None or self._plan.parameters[name] == _NOTHING:
            arguments = {}
        try:
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            return None
        text = text.encode("utf-8", "replace").decode()  # half of a character, as `\\ud83d` alone, is no text
        return Call(f"call_{secrets.token_hex(12)}", name, text) if isinstance(arguments, dict) else None

    def _is_surplus(self, one: str | Call) -> bool:
        if not isinstance(one, Call):
            return False
        if self.calls == self._plan.most:
            return True
        self.calls += 1
        return False


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, behind white space, and the place of its end; None if it is not whole."""
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        return _JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start


def _values(text: str) -> list[Any]:
    """The JSON objects in `text`: one, a list, or several with semicolons between (Llama 3). None of text."""
    found, at = list[Any](), 0
    while text[at:].strip():
        value, at = _decoded(text, at)
        if value is None:
            return []
        found += value if isinstance(value, list) else [value]
        at += len(text[at:]) - len(text[at:].lstrip().removeprefix(";"))
    return found


def _certain(text: str) -> int:
    """How many characters of `text` cannot be part of a call. An opening tag may be cut at the end of `text`."""
    half = next((n for n in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:n])), 0)
    return len(text[: len(text) - half].rstrip())


def _by_name(tools: Sequence[Tool]) -> dict[str, dict[str, Any]]:
    found = {tool.function.name: _parameters(tool) for tool in tools}
    if len(found) < len(tools):
        raise _fault("tools", "two tools have the same name")
    return found


def _parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, an object with no other properties than it names; of a tool that says nothing
    of its parameters, the empty object."""
    given = tool.function.parameters or {}
    schema = {"type": "object", **closed(given)}
    says_nothing = not given.keys() & _SHAPES
    allows_nothing = schema.keys() & _SHAPES <= {"properties", "required", "additionalProperties"} and not (
        schema.get("properties") or schema.get("additionalProperties", True)
    )
    return _NOTHING if says_nothing or allows_nothing else schema


def _schema(demanded: Mapping[str, dict[str, Any]], style: CallStyle) -> dict[str, Any]:
    """The JSON schema of one call: of each tool its name and its parameters, which lie in `$defs`."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, style.arguments_key: {"$ref": f"#/$defs/{at}"}},
            "required": ["name", style.arguments_key],
            "additionalProperties": False,
        }
        for at, name in enumerate(demanded)
    ]
    definitions = {str(at): moved(schema, f"#/$defs/{at}") for at, schema in enumerate(demanded.values())}
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "$defs": definitions}


def _fault(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
