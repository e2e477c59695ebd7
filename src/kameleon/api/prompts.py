"""What a person gives to be answered: a string or messages, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kameleon.errors import SettingError
from kameleon.text import ChatTemplate, with_system

Prompt = str | Sequence[dict[str, Any]]


def encode_prompt(
    template: ChatTemplate, prompt: Prompt, *, raw: bool = False, system_prompt: str | None = None
) -> tuple[int, ...]:
    """Token ids of chat messages, or of a string, which becomes a user's message.

    `system_prompt` is put before messages that have none of their own. With `raw`, `prompt` must be a string; it is
    encoded without the template, behind the tokens with which the tokenizer begins a text.
    """
    if raw:
        if not isinstance(prompt, str):
            raise SettingError("a raw prompt is a string, not messages")
        return (*template.opening, *template.encode_text(prompt))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return tuple(template.encode_prompt(with_system(messages, system_prompt)))
