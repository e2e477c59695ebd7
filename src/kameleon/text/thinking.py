"""Thinking before an answer: which argument of a base's chat template switches it."""

from __future__ import annotations

from typing import Literal

from kameleon.text.template import ChatTemplate

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""OpenAI's levels of `reasoning_effort`."""
_OFF = ("none", "minimal")
_PROBE = [{"role": "user", "content": "?"}]


def thinking_arguments(template: ChatTemplate, effort: Effort) -> dict[str, str | bool] | None:
    """The template's arguments for this effort; None for a template that no known argument changes.

    Where thinking is only on or off, "none" and "minimal" turn it off. Raises DataError for a base without a template.
    """
    values: dict[str, tuple[str | bool, str | bool, str | bool]] = {
        # the value of this effort, and two that a template which reads the argument writes differently
        "reasoning_effort": (effort, "low", "high"),
        "enable_thinking": (effort not in _OFF, False, True),
        "thinking": (effort not in _OFF, False, True),
    }
    for name, (value, *others) in values.items():
        one, other = (template.given({name: each}).render(_PROBE, add_generation_prompt=True) for each in others)
        if one != other:
            return {name: value}
    return None
