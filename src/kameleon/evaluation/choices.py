"""Choices: if the rows of a test set share a few answers, the model chooses one of them for each row's prompt.

If all answers begin with different tokens, these are compared, which costs nothing beside the loss. Else each whole
answer is scored behind each prompt. The token that ends an answer is part of it, which tells "yes" from "yes, but".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kameleon.bases import Base
from kameleon.data import Example

Answer = tuple[int, ...]

_MOST_CHOICES = 32
_MOST_CHOICE_TOKENS = 512
"""The most tokens of all whole answers together, 32 labels of 16 tokens: each row is scored with all of them. Longer
answers would cost many times as much as the row's own answer."""


@dataclass(frozen=True)
class Choices:
    """The different answers of a test set, in the order of their tokens. Of equally likely answers the first is chosen.

    `answer_bytes[i]` is the size of answer i as UTF-8 text, without the token that ends it.
    """

    answers: tuple[Answer, ...]
    answer_bytes: tuple[int, ...]
    by: Literal["first_token", "whole_answer"]

    @property
    def firsts(self) -> tuple[int, ...]:
        """The first tokens of the answers if these decide, else ()."""
        return tuple(answer[0] for answer in self.answers) if self.by == "first_token" else ()

    def rivals(self, example: Example, scored: Collection[Answer]) -> list[Example]:
        """The row's prompt with each answer that is not in `scored`; [] if the first tokens decide."""
        if self.by == "first_token":
            return []
        prompt = example.tokens[: _first_predicted(example)]
        masks = ((False,) * len(prompt) + (True,) * len(answer) for answer in self.answers)
        return [
            replace(example, tokens=(*prompt, *answer), trained=mask, cut_tokens=0)
            for answer, mask in zip(self.answers, masks, strict=True)
            if answer not in scored
        ]

    def with_first(self, token: int) -> Answer:
        """The answer that begins with `token`, if the first tokens decide."""
        return self.answers[self.firsts.index(token)]

    def likeliest(self, logprob: Callable[[Answer], float]) -> Answer:
        """The answer of the highest log-probability."""
        return max(self.answers, key=logprob)

    def likeliest_per_byte(self, logprob: Callable[[Answer], float]) -> Answer:
        """The answer of the highest log-probability per byte of its text: short answers have no advantage."""
        per_byte = {a: logprob(a) / max(1, size) for a, size in zip(self.answers, self.answer_bytes, strict=True)}
        return max(self.answers, key=per_byte.__getitem__)


def find_choices(base: Base, examples: Sequence[Example]) -> Choices | None:
    """The choices of a test set, or None.

    There are choices if there are 2 to 32 different answers, and more rows than answers. If two answers begin with the
    same token, further conditions hold: all answers together have at most 512 tokens and fit behind each prompt, and
    each row is a prompt and one answer. Answers that are cut are then no choices.
    """
    answers = sorted({answer_of(example) for example in examples})
    if not 2 <= len(answers) < len(examples) or len(answers) > _MOST_CHOICES:
        return None
    if len({answer[0] for answer in answers}) == len(answers):
        return _choices(base, answers, "first_token")
    whole = sorted({answer_of(example) for example in examples if not example.cut_tokens})
    longest = max(map(_first_predicted, examples)) + max(map(len, whole), default=0)
    fit = sum(map(len, whole)) <= _MOST_CHOICE_TOKENS and longest <= base.config.max_sequence_tokens
    return _choices(base, whole, "whole_answer") if len(whole) > 1 and fit and all(map(_asks_once, examples)) else None


def _choices(base: Base, answers: Sequence[Answer], by: Literal["first_token", "whole_answer"]) -> Choices:
    texts = (str(base.tokenizer.decode(list(answer), skip_special_tokens=True)) for answer in answers)
    return Choices(tuple(answers), tuple(len(text.encode()) for text in texts), by)


def answer_of(example: Example) -> Answer:
    """The trained tokens of a row that are predicted: all but the first token of the row."""
    return tuple(t for t, trained in zip(example.tokens[1:], example.trained[1:], strict=True) if trained)


def _first_predicted(example: Example) -> int:
    return example.trained.index(True, 1)


def _asks_once(example: Example) -> bool:
    """Whether the row is one prompt and one answer."""
    start = _first_predicted(example)
    return not example.trained[0] and all(example.trained[start : start + len(answer_of(example))])
