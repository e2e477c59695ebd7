"""kameleon data: look at training data before training. It shows which tokens are learned, and names bad rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from kameleon.cli.console import BaseRef, Json, Raw, show, table
from kameleon.cli.flags import in_flags
from kameleon.errors import SettingError
from kameleon.settings import Execution, Reading, Recipe, Watch

if TYPE_CHECKING:
    from kameleon.data import Encoded, Example, Fault, Observation
    from kameleon.text import ChatTemplate

app = App(name="data", help="Look at training data before training.")
_MOST_SHOWN = 20


@app.command
def check(
    file: Annotated[
        str, Parameter(help="JSONL, JSON, CSV, TSV or Parquet; or a hub data set, owner/name or owner/name:SPLIT.")
    ],
    *,
    base: BaseRef = "smollm2",
    test: Annotated[
        str | None, Parameter(help="Your test set: rows that are in both files are counted and named.")
    ] = None,
    rows: Annotated[int, Parameter(help="How many rows to show token by token, a sample of all.")] = 2,
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),  # noqa: B008 (frozen)
    raw: Raw = False,
    max_row_tokens: Annotated[int, Parameter(help="Rows are cut here, as in training.")] = 2048,
    json: Json = False,
) -> None:
    """Show which tokens of a row are learned (green, before ┃), tell what is odd about the file, and name every bad row
    with its reason.

    Exit status 0 when training can use the file, 1 when it cannot.

    Try: kameleon data check law.jsonl --test law-test.jsonl
    """
    from kameleon.data import (
        Encoded,
        Observation,
        check_records,
        describe_empty,
        find_data,
        read_records,
        read_rows,
        sample,
    )
    from kameleon.plan import read_base_header

    if rows < 0:
        raise SettingError(f"rows is {rows}; it must be 0 (none) or more")
    recipe = Recipe(max_row_tokens=max_row_tokens)  # refuses what training refuses
    paths = find_data(file)
    records = list(read_records(*paths, reading=reading))  # a broken file is told before a base is opened
    if not records:
        empty = Observation("empty", describe_empty(file, paths))
        show(_document(Encoded(), (), [empty]), Text(empty.text, style="red"), as_json=json)
        sys.exit(1)
    in_test = read_rows(test, reading) if test else []
    header = read_base_header(base)
    template = header.template()
    checkup = check_records(
        records,
        template,
        header.config,
        test_rows=in_test,
        raw=raw,
        max_tokens=max_row_tokens,
        skip_bad=reading.skip_bad,
    )
    encoded, faults = checkup.encoded, checkup.faults
    observations = [*checkup.observations, *_too_few(encoded, recipe)]
    shown: list[RenderableType] = []
    if taken := sample([e for e in encoded.examples if e.trained_tokens], rows):
        shown += [Text("tokens before ┃ are learned, those before │ are only read", style="dim"), Text("")]
    for example in taken:
        shown += [Text(f"row {example.row}", style="bold"), _mask(example, template), Text("")]
    shown += _about(encoded, faults, observations)
    show(_document(encoded, faults, observations), Group(*shown), as_json=json)
    if not checkup.usable:
        sys.exit(1)


def _mask(example: Example, template: ChatTemplate) -> Text:
    """The row's tokens, the trained ones in bold green before a heavy bar, the others grey before a thin one."""
    shown = Text()
    for token, trained in zip(example.tokens, example.trained, strict=True):
        piece = str(template.tokenizer.decode([token])).replace("\n", "⏎\n")
        shown.append(piece, style="bold green" if trained else "bright_black")
        shown.append("┃" if trained else "│", style="dim")
    return shown


def _too_few(encoded: Encoded, recipe: Recipe) -> list[Observation]:
    """The warnings that training with its default settings would give."""
    from kameleon.data import Observation
    from kameleon.plan import workload_of

    learned = [example for example in encoded.examples if example.trained_tokens]
    work = workload_of(learned, (), recipe, Watch(), Execution()) if learned else None
    return [Observation("too_few", warning) for warning in work.warnings] if work else []


def _about(encoded: Encoded, faults: Sequence[Fault], observations: Sequence[Observation]) -> Iterator[RenderableType]:
    """Counts, observations, and the faults by their reasons."""
    from kameleon.data import by_reason

    lengths = ", ".join(f"{name} {value}" for name, value in encoded.row_tokens().items())
    yield Text(
        f"{len(encoded.rows)} rows, {encoded.tokens:,} tokens, of which {encoded.trained_tokens:,} are learned; "
        f"tokens a row: {lengths}"
    )
    if skipped := _skipped(faults):
        yield Text(f"rows left out: {skipped}, see below")
    if encoded.split:
        yield Text(f"{encoded.split} conversations are a row for each answer: the template rewrites earlier turns")
    for (taken, *left), count in encoded.mixed.items():
        those = "row is" if count == 1 else "rows are"
        yield Text(f"{count} {those} written in several ways: {taken} was taken, {', '.join(left)} left aside")
    if observations:
        yield Text("\nabout the file", style="bold")
        yield from (Text(f"- {in_flags(one.text)}") for one in observations)
    if faults:
        listed, reasons = table(">row", "stops training", "reason"), by_reason(faults)
        shown = reasons if len(reasons) == _MOST_SHOWN + 1 else reasons[:_MOST_SHOWN]
        for numbers, fault in shown:
            listed.add_row(
                numbers, "yes" if fault.fatal else "row left out" if fault.skipped else "no", in_flags(fault.reason)
            )
        yield from (Text(""), listed)
        if len(reasons) > len(shown):
            yield Text(f"and {len(reasons) - len(shown)} more (see --json)")


def _skipped(faults: Sequence[Fault]) -> int:
    return len({fault.row for fault in faults if fault.skipped})


def _document(encoded: Encoded, faults: Sequence[Fault], observations: Sequence[Observation]) -> dict[str, object]:
    return {
        "rows": len(encoded.rows),
        "tokens": encoded.tokens,
        "trained_tokens": encoded.trained_tokens,
        "skipped": _skipped(faults),
        "row_tokens": encoded.row_tokens(),
        "split": encoded.split,
        "mixed": [{"taken": k[0], "left": list(k[1:]), "rows": count} for k, count in encoded.mixed.items()],
        "faults": [{**asdict(fault), "reason": in_flags(fault.reason)} for fault in faults],
        "observations": [{**asdict(one), "text": in_flags(one.text)} for one in observations],
    }
