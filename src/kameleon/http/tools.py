"""Tools: the style in which a chat template has calls written, and calls read from generated text."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kameleon.http.bodies import ChatBody, NamedTool, Tool
from kameleon.http.errors import ApiError

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


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
    names: frozenset[str] = frozenset()
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
    plan = ToolPlan([tool.model_dump(exclude_none=True) for tool in body.tools], _names(body.tools), style, most=most)
    if choice in (None, "auto"):
        return plan
    if style is None:
        raise _fault("tool_choice", "this base's template does not show how calls are written: only auto and none work")
    if body.response_format is not None and body.response_format.type != "text":
        raise _fault("response_format", "an answer that must be a call cannot have another form as well")
    demanded = body.tools
    if isinstance(choice, NamedTool):
        demanded = [tool for tool in body.tools if tool.function.name == choice.function.name]
        if not demanded:
            raise _fault("tool_choice", f"no tool {choice.function.name[:80]!r}; there are {', '.join(plan.names)}")
    opening = f"{_OPEN}\n" if style is CallStyle.TAGGED else ""
    constraints = {"json_schema": json.dumps(_schema(demanded, style))}
    return ToolPlan(plan.rendered, plan.names, style, opening, constraints, 1)


class CallReader:
    """Reads an answer piece by piece, and returns its text and its calls, each call as soon as it is complete.

    Text that looks like a call but is none (no JSON, no such tool) stays text.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self._plan, self._held, self._is_after_call = plan, "", False
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
            end = self._held.find(_CLOSE, at)
            if end < 0 and not finished:
                break
            stop = len(self._held) if end < 0 else end + len(_CLOSE)
            inner = self._held[at + len(_OPEN) : end if end >= 0 else stop]
            call = self._call(inner)
            before = self._held[:at]
            found += [before if call is None else before.rstrip(), call or self._held[at:stop]]
            self._held = self._held[stop:]
            self._is_after_call = call is not None
        else:
            # White space before a call, or behind the last one, is dropped.
            certain = len(self._held) if finished else _certain(self._held)
            if not finished or not self._is_after_call or self._held.strip():
                found.append(self._held[:certain])
                self._is_after_call = self._is_after_call and certain == 0
            self._held = self._held[certain:]
        return found

    def _whole(self, *, finished: bool) -> list[str | Call]:
        """For answers that are calls as a whole, or text: one that begins as JSON is held until it ends."""
        if not finished and (not self._held.strip() or self._held.lstrip()[0] in "{["):
            return []
        held, self._held = self._held, ""
        return self._list_of_calls(held) or [held]

    def _list_of_calls(self, text: str) -> list[str | Call]:
        calls = []
        for part in self._objects(text):
            call = self._call(part)
            if call is None:
                return []
            calls.append(call)
        return calls

    def _objects(self, text: str) -> list[str]:
        """The JSON objects in `text`: one, a list, or several with semicolons between them (Llama 3)."""
        value = _parsed(text)
        if isinstance(value, list):
            return [json.dumps(one, ensure_ascii=False) for one in value]
        return [text] if value is not None else text.split(";")

    def _call(self, text: str) -> Call | None:
        value = _parsed(text)
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._plan.names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        return Call(f"call_{secrets.token_hex(12)}", name, json.dumps(arguments, ensure_ascii=False))

    def _is_surplus(self, one: str | Call) -> bool:
        if not isinstance(one, Call):
            return False
        if self.calls == self._plan.most:
            return True
        self.calls += 1
        return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _certain(text: str) -> int:
    """How many characters of `text` cannot be part of a call. An opening tag may be cut at the end of `text`."""
    half = next((n for n in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:n])), 0)
    return len(text[: len(text) - half].rstrip())


def _names(tools: Sequence[Tool]) -> frozenset[str]:
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise _fault("tools", "two tools have the same name")
    return frozenset(names)


def _schema(tools: Sequence[Tool], style: CallStyle) -> dict[str, Any]:
    """The JSON schema of one call. Definitions move to its root, because references begin there."""
    calls, shared = [], dict[str, dict[str, Any]]()
    for tool in tools:
        parameters = dict(tool.function.parameters or {"type": "object"})
        for place in ("$defs", "definitions"):
            definitions = parameters.pop(place, {})
            known = shared.setdefault(place, {})
            if not isinstance(definitions, dict) or any(known.get(k, v) != v for k, v in definitions.items()):
                raise _fault("tools", f"{place} of {tool.function.name} is no object, or differs from another tool's")
            known.update(definitions)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, style.arguments_key: parameters},
                "required": ["name", style.arguments_key],
                "additionalProperties": False,
            }
        )
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **{k: v for k, v in shared.items() if v}}


def _fault(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)
