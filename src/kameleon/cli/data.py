"""kameleon data: what will be learned, token by token, before any time is spent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from kameleon.cli.console import BaseRef, Json, Raw, open_base, show, table
from kameleon.errors import SettingError
from kameleon.settings import Recipe, Watch
from kameleon.terminal import printable

if TYPE_CHECKING:
    from kameleon.data import Examined, Observation

app = App(name="data", help="Look at training data before training.")
_MOST_SHOWN = 20


@app.command
def check(
    file: Annotated[str, Parameter(help="JSONL, JSON, CSV or Parquet; or a hub data set owner/name.")],
    *,
    base: BaseRef = "smollm2",
    test: Annotated[
        str | None, Parameter(help="Your test set: rows that are in both files are counted and named.")
    ] = None,
    rows: Annotated[int, Parameter(help="How many rows to show token by token, a sample of all.")] = 2,
    raw: Raw = False,
    max_row_tokens: Annotated[int, Parameter(help="Rows are cut here, as in training.")] = 2048,
    json: Json = False,
) -> None:
    """Show what of a row is learned (green, before ┃) and what is odd about the file, and name every bad row with its
    reason.

    Exit status 0 when training can use the file, 1 when it cannot.

    Try: kameleon data check law.jsonl --test law-test.jsonl
    """
    from kameleon.data import (
        Examined,
        Observation,
        colour_mask,
        describe_empty,
        examine,
        find_data,
        observe,
        read_records,
        read_rows,
        sample,
    )

    if rows < 0:
        raise SettingError(f"rows is {rows}; it must be 0 (none) or more")
    recipe = Recipe(max_row_tokens=max_row_tokens)  # refuses what training refuses
    paths = find_data(file)
    records = list(read_records(*paths))  # what is wrong with the file is told before a base is opened
    if not records:
        empty = Observation("empty", describe_empty(file, paths))
        show(_document(Examined((), (), (), ()), [empty]), Text(empty.text, style="red"), json)
        sys.exit(1)
    in_test = read_rows(test) if test else []
    template = open_base(base).base.template
    examined = examine(records, template, raw, max_row_tokens, in_test)
    observations = [*observe(examined, template, in_test), *_too_few(examined, recipe)]
    shown: list[RenderableType] = []
    if taken := sample([e for e in examined.examples if e.trained_tokens], rows):
        shown += [Text("tokens before ┃ are learned, those before │ are only read", style="dim"), Text("")]
    for example in taken:
        shown += [Text(f"row {example.row}", style="bold"), colour_mask(example, template), Text("")]
    shown += _about(examined, observations)
    show(_document(examined, observations), Group(*shown), json)
    if any(fault.fatal for fault in examined.faults) or not examined.trained_tokens:
        sys.exit(1)


def _too_few(examined: Examined, recipe: Recipe) -> list[Observation]:
    """What training with its default settings would warn of."""
    from kameleon.data import Observation
    from kameleon.plan import workload_of

    learned = [example for example in examined.examples if example.trained_tokens]
    work = workload_of(learned, (), recipe, Watch()) if learned else None
    return [Observation("too_few", warning) for warning in work.warnings] if work else []


def _about(examined: Examined, observations: Sequence[Observation]) -> list[RenderableType]:
    from kameleon.data import by_reason

    lengths = examined.row_tokens()
    told = ", ".join(f"{name} {value}" for name, value in lengths.items())
    shown: list[RenderableType] = [
        Text(
            f"{len(examined.rows)} rows, {examined.tokens:,} tokens, of which {examined.trained_tokens:,} are learned; "
            f"tokens a row: {told}"
        )
    ]
    if examined.split:
        shown.append(
            Text(f"{examined.split} conversations are a row for each answer: the template rewrites earlier turns")
        )
    for (taken, *left), count in examined.mixed.items():
        shown.append(Text(f"{count} rows are written in several ways: {taken} was taken, {', '.join(left)} left aside"))
    if observations:
        shown += [Text("\nabout the file", style="bold"), *(Text(f"- {printable(one.text)}") for one in observations)]
    if examined.faults:
        faults = table(">row", "stops training", "reason")
        reasons = by_reason(examined.faults)
        for numbers, fault in reasons[:_MOST_SHOWN]:
            faults.add_row(numbers, "yes" if fault.fatal else "no", fault.reason)
        more = len(reasons) - _MOST_SHOWN
        shown += [Text(""), faults] + ([Text(f"and {more} more (see --json)")] if more > 0 else [])
    return shown


def _document(examined: Examined, observations: Sequence[Observation]) -> dict[str, object]:
    return {**examined.to_json(), "observations": [asdict(observation) for observation in observations]}
