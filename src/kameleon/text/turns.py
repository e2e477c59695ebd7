"""Where the answers of a conversation begin and end in its rendered text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from kameleon.errors import DataError, RewrittenTurnsError

Message = dict[str, Any]

_REWRITTEN = (
    "the base's chat template rewrites earlier turns, so the answers of this conversation cannot be trained as one row"
)
_OPENED_THOUGHT = re.compile(r"<think>\s*\Z")
_EMPTY_THOUGHT = re.compile(r"(?:(?:<think>\s*)?</think>|<\|channel>thought\s*<channel\|>)\s*\Z")
_THOUGHT = re.compile(r"\A\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
_FIRST_ROUNDS, _LAST_ROUNDS = 2, 3
"""A long conversation is looked at through windows of its first and its latest rounds."""


THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names of the field that holds what an assistant thought before its answer."""


class Render(Protocol):
    """Messages to text, in the form in which the template reads them."""

    def __call__(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str: ...


class Turn(NamedTuple):
    """The text between the answer before and this one, and the answer with all that ends its turn."""

    prompt: str
    answer: str


class Turns(NamedTuple):
    """The learned answers of a conversation in their order, and the text behind the last."""

    turns: list[Turn]
    rest: str

    @property
    def text(self) -> str:
        """The whole conversation."""
        return "".join(turn.prompt + turn.answer for turn in self.turns) + self.rest


def thought_of(message: Message) -> str:
    """What an assistant thought before its answer: beside the content, or in tags at its beginning; else ""."""
    for key in THOUGHTS:
        if isinstance(beside := message.get(key), str) and beside:
            return beside
    content = message.get("content")
    inside = _THOUGHT.match(content) if isinstance(content, str) else None
    return inside[1] if inside else ""


def find_turns(render: Render, messages: Sequence[Message], learned: Sequence[int]) -> Turns:
    """The turns of the answers at the places `learned`, in rising order. Each begins where generation would begin it.

    Takes time linear in the number of messages, unless the template makes that impossible.
    Raises RewrittenTurnsError if the template changes earlier turns, and what `render` raises.
    """
    if learned == [len(messages) - 1]:
        return _of_last(render, messages)
    if len(learned) > _FIRST_ROUNDS + _LAST_ROUNDS and (found := _by_windows(render, messages, learned)):
        return found
    return _by_prefixes(render, messages, learned)


def _by_windows(render: Render, messages: Sequence[Message], learned: Sequence[int]) -> Turns | None:
    """By rendering only the rounds around each answer, in linear time. None where that is not the whole's text."""
    whole = render(messages)
    rounds = [0, *(place + 1 for place, message in enumerate(messages) if message["role"] == "assistant")]
    try:
        turns = [_turn(render, *_window(messages, rounds, *pair)) for pair in pairwise([-1, *learned])]
    except RewrittenTurnsError:
        raise
    except DataError:  # the template refuses a conversation without its middle
        return None
    found = Turns(turns, whole[sum(len(turn.prompt + turn.answer) for turn in turns) :])
    return found if found.text == whole else None


def _by_prefixes(render: Render, messages: Sequence[Message], learned: Sequence[int]) -> Turns:
    """By rendering the conversation up to each answer, and up to its end: exact, in quadratic time."""
    turns = [_turn(render, messages, *pair) for pair in pairwise([-1, *learned])]
    text = "".join(turn.prompt + turn.answer for turn in turns)
    whole = render(messages)
    if not whole.startswith(text):
        raise RewrittenTurnsError(_REWRITTEN)
    return Turns(turns, whole[len(text) :])


def _turn(render: Render, messages: Sequence[Message], previous: int, place: int) -> Turn:
    """The answer at `place`, and the text since the answer at `previous` (-1: since the beginning)."""
    done = render(messages[: previous + 1]) if previous >= 0 else ""
    before, after = _before(render, messages, place), render(messages[: place + 1])
    if not before.startswith(done) or not after.startswith(before):
        raise RewrittenTurnsError(_REWRITTEN)
    return Turn(before[len(done) :], after[len(before) :])


def _before(render: Render, messages: Sequence[Message], place: int) -> str:
    """The text before an answer, with the generation prompt.

    No template renders an empty conversation, so before a first message this is what precedes its content.
    """
    if place:
        return render(messages[:place], add_generation_prompt=True)
    asked = [{"role": "user", "content": "?"}]
    generation_prompt = render(asked, add_generation_prompt=True).removeprefix(render(asked))
    written = _before_thought(generation_prompt) or generation_prompt
    rendered = render(messages[:1])
    if not written or written not in rendered:
        raise RewrittenTurnsError(_REWRITTEN)
    return rendered.partition(written)[0] + generation_prompt


def _window(
    messages: Sequence[Message], rounds: Sequence[int], previous: int, place: int
) -> tuple[list[Message], int, int]:
    """The conversation without its middle rounds, and the two places in it. A round ends with an assistant's message;
    `rounds` are the places where one begins.

    The round behind the gap begins with the same role as the first round in it, so that roles alternate as before.
    """
    behind = range(bisect_right(rounds, previous) - _LAST_ROUNDS, _FIRST_ROUNDS, -1)
    gap = rounds[_FIRST_ROUNDS] if behind else 0
    cut = next((rounds[at] - gap for at in behind if messages[rounds[at]]["role"] == messages[gap]["role"]), 0)
    kept = messages[:gap] if cut else []
    return [*kept, *messages[len(kept) + cut : place + 1]], previous - cut, place - cut


def _of_last(render: Render, messages: Sequence[Message]) -> Turns:
    """The last answer after its prompt as in generation, also where the template would write that prompt differently.

    Some templates write a thought's beginning only into the generation prompt (DeepSeek R1's), or an empty thought
    (Gemma 4's), or the system prompt only before a question (Mistral's). The answer is the text that depends on it, in
    the same place behind the generation prompt; a thought that the prompt opens is written out and closed. Raises
    DataError for an answer with a thought where the prompt ends it.
    """
    place = len(messages) - 1
    before, after = _before(render, messages, place), render(messages)
    if after.startswith(before):
        return Turns([Turn(before, after[len(before) :])], "")
    thought, opened = thought_of(messages[place]).strip(), _OPENED_THOUGHT.search(before)
    told = messages[place]
    if opened or _EMPTY_THOUGHT.search(before):
        told = _without_thought(told)
        if thought and not opened:
            raise DataError(
                f"the base's prompt ends the thought before the answer, so the thought in message {place + 1} cannot "
                "be learned: leave it out"
            )
    if not isinstance(told.get("content"), str):
        raise RewrittenTurnsError(_REWRITTEN)
    after = after if told is messages[place] else render([*messages[:place], told])
    head = _before_content(render, messages[:place]).removesuffix(_channel(render))
    prompt = render(messages[:place]) if place else ""
    generation_prompt = _before_thought(before.removeprefix(prompt))
    is_there = before.startswith(prompt) and _before_thought(head).endswith(generation_prompt)
    if not is_there or not after.startswith(head):
        raise RewrittenTurnsError(_REWRITTEN)
    answer = after[len(head) :]
    if opened and not thought and (closed := _EMPTY_THOUGHT.search(head)):
        answer = closed[0].removeprefix("<think>") + answer
    elif opened:
        answer = f"{thought}\n</think>\n\n{answer.lstrip()}"
    return Turns([Turn(before, answer)], "")


def _before_content(render: Render, messages: Sequence[Message]) -> str:
    """The text before the content of an answer: two answers that differ from their first letter on show its end."""
    return _common_start(*(render([*messages, {"role": "assistant", "content": other}]) for other in ("x", "y")))


def _channel(render: Render) -> str:
    """The text that the template writes between its generation prompt and an answer, such as gpt-oss's channel."""
    asked = [{"role": "user", "content": "?"}]
    before, head = render(asked, add_generation_prompt=True), _before_content(render, asked)
    return head[len(before) :] if head.startswith(before) else ""


def _without_thought(message: Message) -> Message:
    """The answer alone."""
    told = {key: one for key, one in message.items() if key not in THOUGHTS}
    if isinstance(told.get("content"), str):
        told["content"] = _THOUGHT.sub("", told["content"])
    return told


def _before_thought(text: str) -> str:
    """The text up to the thought that it opens at its end, or to the empty one there."""
    return _EMPTY_THOUGHT.sub("", _OPENED_THOUGHT.sub("", text))


def _common_start(first: str, second: str) -> str:
    same = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    return first[:same]
