"""The base's own chat template: messages to tokens, with the tokens an assistant must produce marked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from kameleon.errors import DataError

Message = dict[str, Any]


class Encoded(NamedTuple):
    """Tokens, and for each whether it is trained."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


class ChatTemplate:
    """Renders with the template that came with the base, nothing else. Content is never stripped or changed by us."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        source = tokenizer.chat_template
        self._source: str | None = source.get("default") if isinstance(source, dict) else source

    @property
    def hash(self) -> str | None:
        """sha256 of the template's text; None for a base without one."""
        return None if self._source is None else f"sha256:{hashlib.sha256(self._source.encode()).hexdigest()}"

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text. Raises DataError without a template, or when the template refuses the messages."""
        if self._source is None:
            raise DataError("this base has no chat template: use rows with `text`, or --raw for prompt and completion")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise DataError(f"the base's chat template refuses these messages: {error}") from error

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> tuple[int, ...]:
        """Tokens of a conversation up to where the assistant's answer begins."""
        return self._tokens(self.render(messages, tools, add_generation_prompt=True))

    def encode_conversation(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Encoded:
        """Tokens of a whole conversation; trained are the assistant's answers with the token that ends each.

        An answer is what rendering adds after its generation prompt, tokenised apart from it, as in generation. Raises
        DataError for a template where that is not so (one that rewrites earlier turns, for instance).
        """
        tokens: list[int] = []
        trained: list[bool] = []
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:i], tools, add_generation_prompt=True)
            after = self.render(messages[: i + 1], tools)
            if not before.startswith(done) or not after.startswith(before):
                raise DataError(
                    "the base's chat template rewrites earlier turns, so this conversation cannot be trained "
                    "as one row: give each answer a row of its own"
                )
            prompt, answer = self._tokens(before[len(done) :]), self._tokens(after[len(before) :])
            end = self._end(answer)
            tokens += [*prompt, *answer]
            trained += [False] * len(prompt) + [at < end for at in range(len(answer))]
            done = after
        rest = self._tokens(self.render(messages, tools)[len(done) :])
        return Encoded((*tokens, *rest), (*trained, *(False for _ in rest)))

    def _end(self, answer: Sequence[int]) -> int:
        """How many tokens of a rendered answer are to be learned: up to its last special token, which ends the turn."""
        special = set(self.tokenizer.all_special_ids)
        last = max((at for at, token in enumerate(answer) if token in special), default=len(answer) - 1)
        return last + 1

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))
