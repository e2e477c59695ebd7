"""kameleon data: what will be learned, token by token, before any time is spent."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from kameleon.cli.console import BaseRef, Json, Raw, open_base, show, table
from kameleon.errors import SettingError
from kameleon.settings import Recipe

app = App(name="data", help="Look at training data before training.")
_MOST_SHOWN = 20


@app.command
def check(
    file: Annotated[str, Parameter(help="JSONL, JSON, CSV or Parquet; or a hub data set owner/name.")],
    *,
    base: BaseRef = "smollm2",
    test: Annotated[str | None, Parameter(help="The test set: rows that also stand there are named.")] = None,
    rows: Annotated[int, Parameter(help="How many rows to show with their mask: a sample of all.")] = 2,
    raw: Raw = False,
    max_row_tokens: Annotated[int, Parameter(help="Rows are cut here, as in training.")] = 2048,
    json: Json = False,
) -> None:
    """Show what of each row would be learned (green, before ┃) and name every bad row with its number and reason.

    Exit status 0 when training can use the file, 1 when it cannot.

    Try: kameleon data check law.jsonl --test law-test.jsonl
    """
    from kameleon.data import colour_mask, examine, find_data, read_records, read_rows, sample

    if rows < 0:
        raise SettingError(f"rows is {rows}; it must be 0 (none) or more")
    Recipe(max_row_tokens=max_row_tokens)  # refuses what training refuses
    records = read_records(*find_data(file))
    in_test = read_rows(test) if test else []
    template = open_base(base).base.template
    examined = examine(records, template, raw, max_row_tokens, in_test)
    shown: list[Text | object] = []
    for example in sample([e for e in examined.examples if e.trained_tokens], rows):
        shown += [Text(f"row {example.row}", style="bold"), colour_mask(example, template), Text("")]
    lengths = examined.row_tokens()
    told = ", ".join(f"{name} {value}" for name, value in lengths.items())
    shown.append(
        Text(
            f"{len(examined.rows)} rows, {examined.tokens:,} tokens, of which {examined.trained_tokens:,} are learned; "
            f"tokens a row: {told}"
        )
    )
    if examined.split:
        shown.append(
            Text(f"{examined.split} conversations are a row for each answer: the template rewrites earlier turns")
        )
    for (taken, *left), count in examined.mixed.items():
        shown.append(Text(f"{count} rows are written in several ways: {taken} was taken, {', '.join(left)} left aside"))
    if examined.faults:
        faults = table(">row", "stops training", "reason")
        for fault in sorted(examined.faults, key=lambda fault: not fault.fatal)[:_MOST_SHOWN]:
            faults.add_row(str(fault.row), "yes" if fault.fatal else "no", fault.reason)
        more = len(examined.faults) - _MOST_SHOWN
        shown += [Text(""), faults] + ([Text(f"and {more} more (see --json)")] if more > 0 else [])
    show(examined.to_json(), Group(*shown), json)  # type: ignore[arg-type]
    if any(fault.fatal for fault in examined.faults) or not examined.trained_tokens:
        sys.exit(1)
