"""The base's own chat template: messages to tokens, with the tokens an assistant must produce marked."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import cached_property, partial
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from kameleon.errors import DataError
from kameleon.text.control import ControlTokens
from kameleon.text.forms import Forms
from kameleon.text.rendering import render
from kameleon.text.turns import THOUGHTS, Message, Turns, find_turns

Encode = Callable[[str], tuple[int, ...]]

_WITHOUT_TEMPLATE = "use rows with `text`, or `raw=True` for prompt and completion"
_ANCHORS = ("\n", ".", "a", "é")  # text that seldom joins with what follows


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The conversation with this system prompt in front, unless it has a system message of its own, even an empty one.

    With None it stays as it is, and the base's template decides about a system prompt.
    """
    has_own = any(message.get("role") in ("system", "developer") for message in messages)
    begun: list[Message] = [] if has_own or system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*begun, *messages]


def today() -> datetime.date:
    """The day here."""
    return datetime.datetime.now().astimezone().date()


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
        self.date: datetime.date | str | None = None
        """The date that a template writes which asks for it; a text stands for it in every form. None: the day on
        which it is rendered."""
        self.arguments: Mapping[str, Any] = {}
        """Further arguments of the template, such as one that switches thinking."""

    @property
    def hash(self) -> str | None:
        """sha256 of the template's text; None for a base without a template."""
        return None if self.source is None else f"sha256:{hashlib.sha256(self.source.encode()).hexdigest()}"

    @property
    def is_dated(self) -> bool:
        """Whether the template writes a date, today's unless `on` fixes another one."""
        return any("strftime_now" in (source or "") for source in (self.source, self.tools_source))

    def on(self, date: datetime.date | str | None) -> ChatTemplate:
        """The same template with this date, or this text, in place of today's; None: today's."""
        template = self._copy()
        template.date = date
        return template

    def on_one_day(self) -> ChatTemplate:
        """The same template with a fixed date if it writes one: its own, or today's."""
        return self.on(self.date or today()) if self.is_dated else self

    def given(self, arguments: Mapping[str, Any]) -> ChatTemplate:
        """The same template with these arguments."""
        template = self._copy()
        template.arguments = arguments
        return template

    def _copy(self) -> ChatTemplate:
        template = copy(self)
        vars(template).pop("_forms", None)  # found with the former date and arguments
        return template

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text.

        Raises DataError without a template, or if the template refuses the messages or leaves out a part of them.
        """
        return self._control.restore(self._render(messages, tools or (), add_generation_prompt=add_generation_prompt))

    def encode_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        opening: str = "",
        check_length: Callable[[int], None] | None = None,
    ) -> tuple[int, ...]:
        """Tokens of a conversation up to the start of the assistant's answer, which begins with `opening`.

        Control tokens that are spelled in a message are encoded as text. `check_length` gets the number of characters
        before they are tokenised, and may raise.
        """
        rendered = self._render(messages, tools or (), add_generation_prompt=True) + opening
        if check_length is not None:
            check_length(len(rendered))
        return self._encode(rendered)

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
        DataError for a template whose answers end without a special token, and for an answer that is only its end.
        """
        places = [
            i
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and (learned is None or i in learned)
        ]
        said, known = self._control.protect((messages, tools or ()))
        turns_of = partial(self._turns, learned=places)
        form = self._forms.find(said, known, places, turns_of)
        turns, rest = turns_of(form.of(said, places), form.of_tools(known))
        tokens: list[int] = []
        trained: list[bool] = []
        before = ""
        for place, turn in zip(places, turns, strict=True):
            prompt = self._encode_after(before, turn.prompt)
            before = self._control.since_last(before + turn.prompt)
            answer = self._encode_after(before, turn.answer)
            before = self._control.since_last(before + turn.answer)
            end = self._end(answer)
            if end == 1:
                raise DataError(f"the answer (message {place + 1}) is empty: only the token that ends it is left")
            tokens += [*prompt, *answer]
            trained += [False] * len(prompt) + [at < end for at in range(len(answer))]
        behind = self._encode_after(before, rest)
        return Encoded((*tokens, *behind), (*trained, *(False for _ in behind)))

    def _turns(self, messages: Sequence[Message], tools: Sequence[Any], *, learned: Sequence[int]) -> Turns:
        return find_turns(partial(self._apply, tools=tools), messages, learned)

    def _render(self, messages: Sequence[Message], tools: Sequence[Any], *, add_generation_prompt: bool) -> str:
        """The conversation as text, in the form that the template reads, with stand-ins for spelled control tokens."""

        def turns_of(messages: Sequence[Message], tools: Sequence[Any]) -> Turns:
            return Turns([], self._apply(messages, tools=tools, add_generation_prompt=add_generation_prompt))

        messages, tools = self._control.protect((messages, tools))
        form = self._forms.find(messages, tools, (), turns_of)
        return turns_of(form.of(messages, ()), form.of_tools(tools)).text

    def _apply(self, messages: Sequence[Message], *, tools: Sequence[Any], add_generation_prompt: bool = False) -> str:
        """What the template's program makes of the messages."""
        if self.source is None:
            raise DataError(f"this base has no chat template: {_WITHOUT_TEMPLATE}")
        source = self.tools_source if tools and self.tools_source else self.source
        if not messages:
            raise DataError("the base's chat template refuses a conversation without messages")
        if not all(isinstance(tool, Mapping) for tool in tools):
            raise DataError("the base's chat template refuses tools that are no descriptions (JSON objects)")
        values = {
            **self.tokenizer.special_tokens_map,
            **self.arguments,
            "messages": [_as_templates_read(message) for message in messages],
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return render(source, values, date=self.date)

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self.tokenizer)

    @cached_property
    def _forms(self) -> Forms:
        named = self.tokenizer.get_vocab()
        return Forms(knows_thoughts="</think>" in named or "</think>" in (self.source or ""))

    def spelled_control_tokens(self, value: Any) -> list[str]:
        """The control tokens that are spelled in messages, each once. They are encoded as text, and end no turn."""
        return self._control.spelled_in(value)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Tokens of the text alone, without any special token around it. Raises DataError if it is not UTF-8."""
        _require_utf8(text)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _encode(self, rendered: str) -> tuple[int, ...]:
        _require_utf8(rendered)
        return tuple(self._control.encode(rendered))

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Tokens that the tokenizer puts before a text (such as Llama's beginning-of-text token); often none.

        A chat template writes them itself, so only text without a template needs them.
        """
        whole, bare = self.tokenizer.encode("a"), self.tokenizer.encode("a", add_special_tokens=False)
        starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return tuple(whole[: next(starts, 0)])

    def encode_whole(self, text: str) -> tuple[int, ...]:
        """Tokens of a text without a template: `opening`, unless the text spells it already, and the text's.

        Control tokens that the text spells are control tokens. Raises DataError.
        """
        tokens = self.encode_text(text)
        begun = tokens[: len(self.opening)] == self.opening
        return tokens if begun else (*self.opening, *tokens)

    def ended(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens and the tokenizer's end token, unless a token that ends a text or an answer stands there already.

        White space may follow it. Raises DataError for a tokenizer without an end token.
        """
        end = self.tokenizer.eos_token_id
        last = max((at for at, token in enumerate(tokens) if token in self._control.ids), default=-1)
        ends = last >= 0 and (tokens[last] == end or tokens[last] in self._turn_ends)
        if ends and not self._decode(tokens[last + 1 :]).strip():
            return tokens
        if not isinstance(end, int):
            raise DataError("this base's tokenizer has no end token, so the adapter could not learn to stop")
        return (*tokens, end)

    @property
    def _turn_ends(self) -> frozenset[int]:
        try:
            return self.end_token_ids
        except DataError:  # of a template that ends answers with no special token
            return frozenset()

    def encode_after(self, prompt: str, text: str) -> tuple[int, ...]:
        """Tokens of `text` behind `prompt`; the tokens of `prompt` do not depend on `text`.

        They are cut from the tokens of both together, because a SentencePiece tokenizer puts a space before a text that
        stands alone. If one token would span the border, `text` is tokenised so that both together still decode to the
        same text: alone, or behind a letter. Raises DataError.
        """
        return self._behind(self.encode_text, prompt, text)

    def _encode_after(self, rendered: str, text: str) -> tuple[int, ...]:
        return self._behind(self._encode, rendered, text) if text else ()

    def _behind(self, encode: Encode, prompt: str, text: str) -> tuple[int, ...]:
        before, together = encode(prompt), encode(prompt + text)
        if together[: len(before)] == before:
            return together[len(before) :]
        ways = [encode(text), *filter(None, (_behind_anchor(encode, anchor, text) for anchor in _ANCHORS))]
        whole = self._decode(together)
        return next((tokens for tokens in ways if self._decode((*before, *tokens)) == whole), ways[-1])

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

    def _end(self, answer: Sequence[int]) -> int:
        """The number of trained tokens of a rendered answer: up to the special token that ends the turn.

        That is the tokenizer's end token; else the last one. Some templates begin the next turn behind it.
        """
        own = self.tokenizer.eos_token_id
        if isinstance(own, int) and own in answer:
            return len(answer) - list(reversed(answer)).index(own)
        last = max((at for at, token in enumerate(answer) if token in self._control.ids), default=-1)
        after = str(self.tokenizer.decode(list(answer[last + 1 :])))
        if last < 0 or after.strip():
            raise DataError(
                "the base's chat template ends an answer with no special token, so the adapter could not learn to "
                f"stop: {_WITHOUT_TEMPLATE}"
            )
        return last + 1


def _behind_anchor(encode: Encode, anchor: str, text: str) -> tuple[int, ...] | None:
    """Tokens of `text` behind a letter with which no token of it joins; None where one does."""
    before, together = encode(anchor), encode(anchor + text)
    return together[len(before) :] if together[: len(before)] == before else None


def _as_templates_read(message: Message) -> Message:
    """A message without fields that are None, and with its thought under both names that templates ask for."""
    held = {key: value for key, value in message.items() if value is not None}
    thoughts = (held[key] for key in THOUGHTS if key in held)
    thought = next(thoughts, None)
    return held if thought is None else {"thinking": thought, **held, "reasoning_content": thought}


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"it holds text that is not UTF-8: {error.reason} at character {error.start}") from error
