"""Messages and texts of requests to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kameleon.bases import Base
from kameleon.errors import ContextLengthError
from kameleon.http.bodies import ChatMessage
from kameleon.http.errors import ApiError
from kameleon.text import Effort, thinking_arguments, with_system


class Prompts:
    """Encodes prompts for one base. Text that is too long is refused before it is tokenised: megabytes take seconds."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self.max_tokens = base.config.max_sequence_tokens
        self._max_characters = self.max_tokens * max(map(len, base.tokenizer.get_vocab()))

    def of_messages(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[dict[str, Any]],
        *,
        opening: str,
        system_prompt: str | None = None,
        effort: Effort | None = None,
    ) -> list[int]:
        """A conversation up to the beginning of the answer, then `opening`.

        `system_prompt` is put before a conversation that has none of its own. `effort` switches thinking; None leaves
        it to the template. Raises DataError, ContextLengthError, ApiError.
        """
        template = self._base.template.given(self._thinking(effort))
        begun = with_system([_plain(m) for m in messages], system_prompt)
        tokens = template.encode_prompt(begun, tools, opening=opening, check_length=self._check_length)
        return self._checked(list(tokens), "messages")

    def of_text(self, text: str | Sequence[int]) -> list[int]:
        """Tokens of a text, behind those with which the tokenizer begins a text; or given tokens as they are.

        Raises DataError, ContextLengthError, ApiError.
        """
        if not isinstance(text, str):
            return self._checked(list(text), "prompt")
        self._check_length(len(text))
        return self._checked(list(self._base.template.encode_whole(text)), "prompt")

    def _thinking(self, effort: Effort | None) -> dict[str, str | bool]:
        found = {} if effort is None else thinking_arguments(self._base.template, effort)
        if found is None:
            message = "reasoning_effort: this base's chat template has no thinking to switch; leave it out"
            raise ApiError(400, message, code="invalid_value", param="reasoning_effort")
        return found

    def _check_length(self, characters: int) -> None:
        if characters > self._max_characters:
            raise self._too_long(f"{characters} characters")

    def _checked(self, tokens: list[int], where: str) -> list[int]:
        if not tokens:
            raise ApiError(400, "the prompt is empty; give it at least one token", code="invalid_value", param=where)
        if len(tokens) >= self.max_tokens:
            raise self._too_long(str(len(tokens)))
        vocabulary = self._base.config.vocab_size
        if max(tokens) >= vocabulary:
            raise ApiError(400, f"token {max(tokens)} is not one of {vocabulary:,}", code="invalid_value", param=where)
        return tokens

    def _too_long(self, what: str) -> ContextLengthError:
        return ContextLengthError(
            self.max_tokens, f"the prompt alone has {what}; shorten it, and leave room for the answer"
        )


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates expect it: its text in one piece, without empty fields."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    plain: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content or "",
    }
    if message.tool_calls:
        plain["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            plain[key] = value
    return plain
