"""Answers of the base and its adapters to a few test rows, for a person to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.data import Example, Row, sample
from kameleon.evaluation.scores import TestSet
from kameleon.generation import Request, Sampling, generate


@dataclass(frozen=True)
class AnsweredRow:
    """A row of a test set: its number in the file, the question, the right answer, and what each adapter answers.

    `answers` is in the order of the adapters.
    """

    row: int
    question: str
    right: str
    answers: tuple[str, ...]


def answer_rows(
    base: Base, bank: Bank, adapters: Sequence[str | None], test: TestSet, *, rows: int, max_tokens: int = 48
) -> list[AnsweredRow]:
    """Greedy answers of resident adapters (None: the plain base) to a sample of a test set's rows, the same each time.

    Each adapter answers with the system prompt that it was trained with. Rows of plain text, which ask nothing, are
    left out.
    """
    if test.corpus is None:
        return []
    asked = [place for place, row in enumerate(test.corpus.rows) if row.messages or row.prompt is not None]
    picked = test.corpus.pick(sample(asked, rows))
    sampling = Sampling(max_tokens=max_tokens)
    requests = []
    for name in adapters:
        own = picked.with_system_prompt(base.template, bank.system_prompt(name))
        requests += [Request(one.tokens[: _start(one)], name, sampling) for one in own.examples]
    texts = [done.text.strip() for done in generate(base, bank, requests)]
    count = len(picked.examples)
    return [
        AnsweredRow(example.row, _question(row), _right(base, example), tuple(texts[at::count]))
        for at, (row, example) in enumerate(zip(picked.rows, picked.examples, strict=True))
    ]


def _start(example: Example) -> int:
    """The place of the first token of the row's last answer."""
    last = max(at for at, trained in enumerate(example.trained) if trained)
    return max((at for at in range(last) if not example.trained[at]), default=-1) + 1


def _right(base: Base, example: Example) -> str:
    learned = [token for token, trained in zip(example.tokens, example.trained, strict=True) if trained]
    last = sum(example.trained[_start(example) :])
    return str(base.tokenizer.decode(learned[-last:], skip_special_tokens=True)).strip()


def _question(row: Row) -> str:
    """The last thing that a user says in the row."""
    if row.prompt is not None:
        return row.prompt
    return str(next((m["content"] for m in reversed(row.messages) if m["role"] == "user"), ""))
