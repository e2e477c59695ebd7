"""kameleon eval: scores of every adapter on every test set, the base first, and what an adapter has forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from kameleon.cli.console import (
    AnyBase,
    BaseRef,
    Compute,
    Json,
    Quantize,
    Raw,
    in_one_line,
    notes,
    open_base,
    progress,
    results,
    show,
    table,
)
from kameleon.cli.flags import in_flags
from kameleon.errors import SettingError, WrongBaseError
from kameleon.settings import Reading

if TYPE_CHECKING:
    from kameleon.api import LoadedBase
    from kameleon.evaluation import AnsweredRow, Score, TestSet

_ANSWER_COLUMNS = 20
"""Columns of the terminal that an answer needs beside others."""


def evaluate(
    tests: Annotated[
        list[str], Parameter(help="Test sets: FILE or NAME=FILE; FILE may be a hub data set, owner/name:SPLIT.")
    ],
    *,
    adapters: Annotated[list[str] | None, Parameter(help="Adapters to score; by default all of this base.")] = None,
    base: BaseRef = "smollm2",
    quantize: Quantize = None,
    compute: Compute = None,
    rows: Annotated[
        int, Parameter(help="Score only a sample of this many rows of each set, the same each time. 0 means all.")
    ] = 0,
    answers: Annotated[
        int, Parameter(help="Show what each answers to this many rows of each set, side by side. 0 shows none.")
    ] = 3,
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),  # noqa: B008 (frozen)
    raw: Raw = False,
    general: Annotated[
        Path | None, Parameter(help="Text on which forgetting is measured; by default two dozen short everyday texts.")
    ] = None,
    any_base: AnyBase = False,
    json: Json = False,
) -> None:
    """Score the base and every adapter on every test set.

    Test rows without a system message get the one that each adapter was trained with; general text stays as it is.
    A score is the share of right rows. Choice, where a set has at most 32 different answers: the likeliest of them is
    right. They are compared by their first token if all differ in it, else whole (at most 512 tokens together). Exact,
    for other sets: the answer that greedy generation gives is right. Bits per byte: how well the right answers are
    predicted; less is better. Forgetting: how much worse than the base the adapter predicts general text; 0 is none.

    Try: kameleon eval law=law-test.jsonl code=code-test.jsonl --adapters law --adapters code
    """
    from kameleon.evaluation import GENERAL_TEXT, answer_rows

    _check(tests, adapters or (), rows, answers)
    loaded = open_base(base, quantize, compute=compute)
    names: list[str | None] = [None]
    for name in adapters if adapters is not None else loaded.shelf.names():
        try:
            loaded.load_adapter(name, any_base=any_base)
        except WrongBaseError as error:
            if adapters is not None:
                raise
            notes.print(in_flags(f"left out: {error}"), style="yellow", highlight=False)
        else:
            names.append(name)
            if (own := loaded.bank.system_prompt(name)) is not None:
                told = f"system prompt of the adapter {name}, for test rows without one: {in_one_line(own)}"
                notes.print(told, highlight=False)
    sets = [_test_set(loaded, spec, rows, raw=raw, reading=reading) for spec in tests]
    sets.append(loaded.test_set("general text", loaded.read(general or GENERAL_TEXT), as_trained=False))
    *scores, forgotten = _scored(loaded, names, sets)
    answered = {
        one.name: answer_rows(loaded.base, loaded.bank, names, one, rows=answers) if answers else []
        for one in sets[:-1]
    }
    document = {
        "base": loaded.base.name,
        "rows": [as_document(score) for group in scores for score in group],
        "forgetting": {s.adapter: s.loss - forgotten[0].loss for s in forgotten if s.adapter is not None},
        "answers": {name: [_answers_document(row, names) for row in some] for name, some in answered.items()},
    }
    sizes = {one.name: len(one.examples) for one in sets}
    shown = [_answer_table(name, some, names, sizes[name]) for name, some in answered.items() if some]
    scored = score_table([s for group in scores for s in group], forgotten)
    show(document, Group(*chain.from_iterable((one, "") for one in shown), scored), as_json=json)


def _check(tests: Sequence[str], adapters: Sequence[str], rows: int, answers: int) -> None:
    """Raise SettingError, DataError or AdapterNotFoundError for what can be told before the base is loaded."""
    from kameleon.adapters import Shelf
    from kameleon.data import find_data

    if rows < 0:
        raise SettingError(f"rows is {rows}; it must be 0 (all) or more")
    if answers < 0:
        raise SettingError(f"answers is {answers}; it must be 0 (none) or more")
    twice = [name for name, count in Counter(_named(spec)[0] for spec in tests).items() if count > 1]
    if twice:
        raise SettingError(f"{twice[0]!r} names several test sets; tell them apart as NAME=FILE")
    for spec in tests:
        find_data(_named(spec)[1])
    for name in adapters:
        Shelf().path(name)


def as_document(score: Score) -> dict[str, Any]:
    """A score for scripts; the base is called "base"."""
    return {**asdict(score), "adapter": score.adapter or "base"}


def _answers_document(row: AnsweredRow, names: Sequence[str | None]) -> dict[str, Any]:
    by_name = dict(zip((name or "base" for name in names), row.answers, strict=True))
    return {"row": row.row, "question": row.question, "right": row.right, "answers": by_name}


def _answer_table(name: str, rows: Sequence[AnsweredRow], names: Sequence[str | None], of_rows: int) -> Table:
    """A line for each row, a column for what each answers; in a narrow terminal a line for each answer."""
    title = f"{name}: what each answers, a sample of {len(rows)} of {of_rows} rows"
    who = [one or "base" for one in names]
    if results.width < _ANSWER_COLUMNS * (len(who) + 2):
        shown = table("who", "says", title=title)
        for row in rows:
            shown.add_row(f"row {row.row}", "")
            for label, text in zip(("question", "right", *who), (row.question, row.right, *row.answers), strict=True):
                shown.add_row(label, in_one_line(text))
        return shown
    shown = table(">row", "question", "right answer", *who, title=title)
    for row in rows:
        shown.add_row(str(row.row), *map(in_one_line, (row.question, row.right, *row.answers)))
    return shown


def _named(spec: str) -> tuple[str, str]:
    """A test set's name and file."""
    name, _, file = spec.partition("=") if "=" in spec else (Path(spec).stem, "", spec)
    if not name or not file:
        raise SettingError(f"{spec!r} is not a test set: give FILE or NAME=FILE")
    return name, file


def _test_set(loaded: LoadedBase, spec: str, rows: int, *, raw: bool, reading: Reading) -> TestSet:
    from kameleon.data import sample

    name, file = _named(spec)
    corpus = loaded.read(file, raw=raw, reading=reading)
    return loaded.test_set(name, corpus.pick(sample(range(len(corpus.examples)), rows)) if rows else corpus)


def _scored(loaded: LoadedBase, names: Sequence[str | None], sets: Sequence[TestSet]) -> list[list[Score]]:
    with progress() as bars:
        total = len(names) * sum(len(s.sequences) for s in sets)
        task = bars.add_task("evaluating", total=total)
        return [loaded.evaluate(names, [one], on_rows=lambda count: bars.update(task, advance=count)) for one in sets]


def score_table(scores: Sequence[Score], forgotten: Sequence[Score]) -> Table:
    """A row for each adapter, a column for each test set; a cell holds the quoted score and bits per byte."""
    sets = list(dict.fromkeys(score.testset for score in scores))
    cells = {(score.adapter, score.testset): score for score in scores}
    shown = table("adapter", *(f">{name}" for name in sets), ">forgetting")
    for general in forgotten:
        row = [cells[general.adapter, name] for name in sets]
        told = (f"{_quoted(score)}, {score.bits_per_byte:.2f}" for score in row)
        change = general.loss - forgotten[0].loss
        shown.add_row(general.adapter or "base", *told, "" if general.adapter is None else f"{change:+.3f}")
    shown.caption = (
        "first number: share of right rows, from 0 to 1; choice: the likeliest of the set's answers is right; exact: "
        "the answer word for word\n"
        "second number: bits per byte, how badly the right answers are predicted; less is better\n"
        "forgetting: how much worse than the base general text is predicted, in nats per token; 0 is nothing forgotten"
    )
    if any(score.choice_by == "whole_answer" for score in scores):
        shown.caption += "\nchoice whole: by the log-probability of whole answers, in brackets by that per byte"
    shown.caption_justify = "left"
    return shown


def _quoted(score: Score) -> str:
    """The score that people quote, with its name."""
    if score.choice_by is None:
        return f"{score.held_out:.3f} exact"
    if score.choice_accuracy_per_byte is None:
        return f"{score.held_out:.3f} choice"
    return f"{score.held_out:.3f} choice whole ({score.choice_accuracy_per_byte:.3f})"
