"""What a person gives to be answered: strings and conversations, told apart and made tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kameleon.errors import SettingError, WrongTypeError
from kameleon.text import ChatTemplate, with_system
from kameleon.words import came

Conversation = Sequence[Mapping[str, Any]]
"""Messages in OpenAI's form: [{"role": "user", "content": "Hi"}]."""
Prompt = str | Conversation

_MESSAGE = '{"role": "user", "content": "Hi"}'
_PROMPT = f"a string or a conversation [{_MESSAGE}]"


def listed(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """All prompts, and whether it is one: a string or a conversation, not a list of these. Raises WrongTypeError."""
    if isinstance(prompts, str) or (isinstance(prompts, list | tuple) and prompts and isinstance(prompts[0], Mapping)):
        return [_checked("prompts", prompts)], True
    if not isinstance(prompts, list | tuple):
        raise _wrong("prompts", prompts, f"{_PROMPT}, or a list of these")
    return [_checked(f"prompts[{at}]", prompt) for at, prompt in enumerate(prompts)], False


def one_for_each(values: Any, count: int, what: str) -> list[Any]:
    """`values` itself if it is a list with one for each prompt; any other value is that of all prompts.

    Raises SettingError for a list of another length.
    """
    if not isinstance(values, list | tuple):
        return [values] * count
    if len(values) != count:
        raise SettingError(
            f"{what} has {len(values)} for {count} prompt{'' if count == 1 else 's'}: give one for each, or a single "
            "one for all (not in a list)"
        )
    return list(values)


def encode_prompt(
    template: ChatTemplate, prompt: Prompt, *, raw: bool = False, system_prompt: str | None = None
) -> tuple[int, ...]:
    """Token ids of a conversation, or of a string, which becomes a user's message.

    `system_prompt` is put before messages that have none of their own. With `raw`, `prompt` must be a string; it is
    encoded without the template, behind the tokens with which the tokenizer begins a text.
    """
    prompt = _checked("prompt", prompt)
    if raw:
        if not isinstance(prompt, str):
            raise SettingError("with `raw=True` a prompt is a string, not a conversation")
        return template.encode_whole(prompt)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(one) for one in prompt]
    return tuple(template.encode_prompt(with_system(messages, system_prompt)))


def _checked(name: str, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return str(prompt)
    if not isinstance(prompt, list | tuple):
        raise _wrong(name, prompt, _PROMPT)
    if not prompt:
        raise SettingError(f"{name} is an empty conversation; expected at least one message {_MESSAGE}")
    for at, message in enumerate(prompt):
        place = f"{name}[{at}]"
        if not isinstance(message, Mapping):
            raise _wrong(place, message, f"a message {_MESSAGE}")
        if not isinstance(message.get("role"), str):
            raise WrongTypeError(f"{place} has no text in 'role'; expected a message {_MESSAGE}")
        if not isinstance(content := message.get("content"), str | list | None):
            raise WrongTypeError(f"{place}['content'] is {came(content)}; expected a string")
    return prompt


def _wrong(name: str, value: Any, expected: str) -> WrongTypeError:
    told = f"{name} is {came(value)}; expected {expected}"
    if isinstance(value, Mapping):
        told += ". A conversation is a list of messages: put it in brackets"
    elif hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        told += f": list({name}) makes a list"
    return WrongTypeError(told)
