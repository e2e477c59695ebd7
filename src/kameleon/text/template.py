"""The base's own chat template: messages to tokens, with the tokens an assistant must produce marked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from kameleon.errors import DataError, RewrittenTurnsError

Message = dict[str, Any]

_REWRITTEN = (
    "the base's chat template rewrites earlier turns, so the answers of this conversation cannot be trained as one row"
)
_WITHOUT_TEMPLATE = "use rows with `text`, or --raw (in Python raw=True) for prompt and completion"
_ANCHORS = ("\n", ".", "a", "é")  # text that seldom joins with what follows
# Errors that a template's program raises, on purpose or not.
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The conversation with this system prompt in front, unless it has a system message of its own, even an empty one.

    With None it stays as it is, and the base's template decides about a system prompt.
    """
    has_own = any(message.get("role") in ("system", "developer") for message in messages)
    begun: list[Message] = [] if has_own or system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*begun, *messages]


class Encoded(NamedTuple):
    """Tokens, and whether each of them is trained."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


class ChatTemplate:
    """Renders with the base's own template. The content of messages is passed on without any change."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        said = tokenizer.chat_template
        named: dict[str, str | None] = said if isinstance(said, dict) else {"default": said}
        self.source: str | None = named.get("default")
        """The template's text; None for a base without a template."""
        self.tools_source: str | None = named.get("tool_use", self.source)
        """The template of conversations with tools; some bases have a separate one."""

    @property
    def hash(self) -> str | None:
        """sha256 of the template's text; None for a base without a template."""
        return None if self.source is None else f"sha256:{hashlib.sha256(self.source.encode()).hexdigest()}"

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text. Raises DataError without a template, or if the template refuses the messages."""
        if self.source is None:
            raise DataError(f"this base has no chat template: {_WITHOUT_TEMPLATE}")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [_with_parsed_arguments(message) for message in messages],
                    tools=list(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except _REFUSALS as error:
            raise DataError(f"the base's chat template refuses these messages: {error}") from error

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> tuple[int, ...]:
        """Tokens of a conversation up to the start of the assistant's answer."""
        return self.encode_text(self.render(messages, tools, add_generation_prompt=True))

    def encode_conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        learned: Collection[int] | None = None,
    ) -> Encoded:
        """Tokens of a whole conversation. Trained are the assistant's answers at the places `learned` (None: all of
        them), and the token that ends each; everything else is prompt.

        An answer is the text that rendering adds after its generation prompt, and its tokens follow the prompt's, as in
        generation. Raises RewrittenTurnsError if the template changes earlier turns, which makes that impossible, and
        DataError for a template whose answers end without a special token.
        """
        tokens: list[int] = []
        trained: list[bool] = []
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or (learned is not None and i not in learned):
                continue
            before = self.render(messages[:i], tools, add_generation_prompt=True)
            after = self.render(messages[: i + 1], tools)
            if not before.startswith(done) or not after.startswith(before):
                raise RewrittenTurnsError(_REWRITTEN)
            prompt = self.encode_after(done, before[len(done) :])
            answer = self.encode_after(before, after[len(before) :])
            end = self._end(answer)
            tokens += [*prompt, *answer]
            trained += [False] * len(prompt) + [at < end for at in range(len(answer))]
            done = after
        whole = self.render(messages, tools)
        if not whole.startswith(done):
            raise RewrittenTurnsError(_REWRITTEN)
        rest = self.encode_after(done, whole[len(done) :])
        return Encoded((*tokens, *rest), (*trained, *(False for _ in rest)))

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Tokens of the text alone, without any special token around it. Raises DataError if it is not UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"it holds text that is not UTF-8: {error.reason} at character {error.start}") from error
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Tokens that the tokenizer puts before a text (such as Llama's beginning-of-text token); often none.

        A chat template writes them itself, so only text without a template needs them.
        """
        whole, bare = self.tokenizer.encode("a"), self.tokenizer.encode("a", add_special_tokens=False)
        starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return tuple(whole[: next(starts, 0)])

    def encode_after(self, prompt: str, text: str) -> tuple[int, ...]:
        """Tokens of `text` behind `prompt`; the tokens of `prompt` do not depend on `text`.

        They are cut from the tokens of both together, because a SentencePiece tokenizer puts a space before a text that
        stands alone. If one token would span the border, `text` is tokenised so that both together still decode to the
        same text: alone, or behind a letter. Raises DataError.
        """
        before, together = self.encode_text(prompt), self.encode_text(prompt + text)
        if together[: len(before)] == before:
            return together[len(before) :]
        ways = [self.encode_text(text), *filter(None, (self._encode_behind(anchor, text) for anchor in _ANCHORS))]
        whole = self._decode(together)
        return next((tokens for tokens in ways if self._decode((*before, *tokens)) == whole), ways[-1])

    def _encode_behind(self, anchor: str, text: str) -> tuple[int, ...] | None:
        """Tokens of `text` behind a letter with which no token of it joins; None where one does."""
        before, together = self.encode_text(anchor), self.encode_text(anchor + text)
        return together[len(before) :] if together[: len(before)] == before else None

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's end token, and the token that the template puts there.

        Raises DataError for a template whose answers end without a special token.
        """
        own = self.tokenizer.eos_token_id
        ends = {own} if isinstance(own, int) else set()
        if self.source is not None:
            probe = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
            encoded = self.encode_conversation(probe)
            ends.add([token for token, trained in zip(*encoded, strict=True) if trained][-1])
        return frozenset(ends)

    @cached_property
    def _special_token_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {token for token, entry in added if entry.special}

    def _end(self, answer: Sequence[int]) -> int:
        """The number of trained tokens of a rendered answer: up to the special token that ends the turn."""
        last = max((at for at, token in enumerate(answer) if token in self._special_token_ids), default=-1)
        after = str(self.tokenizer.decode(list(answer[last + 1 :])))
        if last < 0 or after.strip():
            raise DataError(
                "the base's chat template ends an answer with no special token, so the adapter could not learn to "
                f"stop: {_WITHOUT_TEMPLATE}"
            )
        return last + 1


def _with_parsed_arguments(message: Message) -> Message:
    """Tool calls with their arguments as an object: OpenAI sends JSON text, which templates would quote a second time.

    Clients send empty text for a call without arguments. Text that is not JSON stays text.
    """
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_parsed_call(call) for call in calls]} if calls else message


def _with_parsed_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"].strip() or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
