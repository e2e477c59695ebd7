"""Shared by all commands: results go to standard output, all else to standard error; bars show the time left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kameleon.errors import SettingError
from kameleon.home import atomic_write
from kameleon.settings import ComputeName, parse_bytes
from kameleon.terminal import printable, printable_json

if TYPE_CHECKING:
    from kameleon.api import LoadedBase


class _Console(Console):
    """What a file holds is shown and does nothing: strings are made printable before they are measured, and all other
    text when it is rendered."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


# Without markup and emoji, names such as "[/v1]" or ":x:" are shown as they are.
results = _Console(markup=False, emoji=False)
# soft_wrap: a terminal breaks lines itself, and in a log a message stays one line.
notes = _Console(markup=False, emoji=False, stderr=True, soft_wrap=True)

_WIDE = 70
"""Columns of a terminal from which on a bar has room beside its text."""
_ANY_WIDTH = 10_000
_LINE_EVERY_S, _SHORT_S = 10.0, 1.0

Json = Annotated[bool, Parameter(help="Print one JSON document on standard output and nothing else there.")]
Quantize = Annotated[
    Literal["nf4"] | None,
    Parameter(
        help="Pack the matrices of a base in Hugging Face layout to 4 bits, once; a GGUF file is packed already."
    ),
]
Compute = Annotated[
    ComputeName | None,
    Parameter(
        help="The type of numbers to compute in. By default bf16 where this CPU has units for it, else fp32, which "
        "is more exact (`kameleon doctor` says which)."
    ),
]
MemoryBudget = Annotated[
    str | None,
    Parameter(
        help="Stay inside this much memory: 6 means 6 GB, or write a unit (512MB, 4GiB). Chooses micro-batch-tokens "
        "and checkpoint-layers where you do not set them, and packs the base to 4 bits if it does not fit otherwise."
    ),
]
BaseRef = Annotated[
    str, Parameter(help="The frozen base: smollm2 or gemma3-270m, a folder, a .gguf file, or a hub id owner/name.")
]
Raw = Annotated[bool, Parameter(help="Prompt and completion as they are, without the chat template.")]
AnyBase = Annotated[bool, Parameter(help="Accept adapters that were trained on another base.")]
Yes = Annotated[bool, Parameter(help="Do not ask.")]
Overwrite = Annotated[bool, Parameter(help="Put it in the place of an adapter of that name.")]


def agreed(question: str, *, yes: bool) -> bool:
    """Whether a person agrees to the question; `yes` means that they did beforehand.

    Raises SettingError where nobody can answer.
    """
    try:
        return yes or input(printable(f"{question} [y/N] ")).strip().lower() == "y"
    except EOFError:
        raise SettingError("standard input is closed, so the question cannot be asked: give --yes") from None


def in_one_line(text: str, most: int = 300) -> str:
    """Text of a file for one line of the terminal: line breaks become spaces, and it is cut after `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def show(document: Any, picture: RenderableType, *, as_json: bool) -> None:
    """Print the result of a command: the picture for a person, or the document for a script.

    Raises SettingError when standard output cannot be written (disk full).
    """
    try:
        if as_json:
            print(printable_json(_json_text(document, ensure_ascii=False)), flush=True)
        else:
            results.print(picture)
    except BrokenPipeError:
        results.on_broken_pipe()  # ends the command as rich does when the reader has gone
    except OSError as error:
        raise SettingError(f"standard output cannot be written: {error}") from error


def _json_text(document: Any, *, ensure_ascii: bool = True) -> str:
    """Strict JSON: NaN and infinity, which a card may hold, become null."""
    strict = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return json.dumps(strict, indent=1, ensure_ascii=ensure_ascii)


def write_document(document: Any, path: Path) -> None:
    """Write the document to a file. Raises SettingError when that fails."""
    try:
        with atomic_write(path) as file:
            file.write((_json_text(document) + "\n").encode())
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error}") from error


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table. A column whose name starts with > is for numbers: flush right, shown without the >."""
    made = _Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


class _Table(Table):
    """A table of which a narrow terminal shows each row as a paragraph, with a line for each cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if width >= _WIDE or len(self.columns) < 3 or _natural_width(self, console, options) <= width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title), style="italic")
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            for at, (column, cell) in enumerate(zip(self.columns, cells, strict=True)):
                if str(cell):
                    yield Text(
                        f"{column.header}: {cell}" if at and column.header else str(cell), style="" if at else "bold"
                    )
            yield Text("")
        if self.caption:
            yield Text(str(self.caption), style="dim")


def _natural_width(made: Table, console: Console, options: ConsoleOptions) -> int:
    """Columns of a terminal in which no cell is broken."""
    return Measurement.get(console, options.update_width(_ANY_WIDTH), made).maximum


def bars(values: Mapping[Any, float], what: str) -> Table:
    """A table of numbers with a bar for each; the largest number has the longest bar."""
    made, largest = table(what, ">norm", ""), max(values.values(), default=0.0) or 1.0
    for name, value in values.items():
        made.add_row(str(name), f"{value:.3g}", "█" * round(30 * value / largest))
    return made


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on standard error, each with the count done and the time; lines where no terminal can redraw a bar."""
    moving = notes.is_terminal and not notes.is_dumb_terminal
    bar = (BarColumn(bar_width=None), MofNCompleteColumn()) if notes.width >= _WIDE else (TaskProgressColumn(),)
    columns = (TextColumn("{task.description}", markup=False), *bar, _Time())
    with Progress(*columns, console=notes, expand=True) if moving else _Lines(console=notes, disable=True) as bars:
        yield bars


class _Time(ProgressColumn):
    """The time of a task: "0:01:12 elapsed, 0:02:48 left", in a narrow terminal "0:01:12 / 0:02:48 left"."""

    def render(self, task: Task) -> Text:
        return Text(_time(task, between=" elapsed, " if notes.width >= _WIDE else " / "), style="progress.elapsed")


class _Lines(Progress):
    """Progress as lines: one each ten seconds, and one at the end of a task that is not short."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        task = self.tasks[task_id]
        told_s = task.fields.setdefault("told_s", 0.0)
        spent_s = task.elapsed or 0.0
        is_end = task.finished and not task.fields.get("done") and spent_s >= _SHORT_S
        if is_end or (not task.finished and spent_s - told_s >= _LINE_EVERY_S):
            task.fields |= {"told_s": spent_s, "done": task.finished}
            count = "" if task.total is None else f"  {task.completed:,.0f}/{task.total:,.0f}"
            notes.print(f"{task.description}{count}  {_time(task)}", highlight=False)


def _time(task: Task, *, between: str = " elapsed, ") -> str:
    """The time spent and the time left, if it is known."""
    spent, left = (None if s is None else timedelta(seconds=int(s)) for s in (task.elapsed, task.time_remaining))
    if task.finished or left is None:
        return f"{timedelta(seconds=int(task.finished_time or task.elapsed or 0))} elapsed"
    return f"{spent}{between}{left} left"


def open_base(ref: str, quantize: Quantize = None, *, compute: ComputeName | None = None) -> LoadedBase:
    """Load a base with a bar, and print where it came from, its compute type and the kernels."""
    from kameleon.api import load
    from kameleon.ops import COMPUTE_TYPES, kernels

    with progress() as bars:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        loaded = load(ref, compute and COMPUTE_TYPES[compute], on_progress=on_progress, quantize=quantize)
    base = loaded.base
    notes.print(f"base {base.name}: {base.files.source}", highlight=False)
    notes.print(f"computing in {base.compute_reason}", highlight=False)
    notes.print(f"kernels: {kernels().level or 'none, the reference path'} ({kernels().reason})", highlight=False)
    return loaded


def memory_budget(given: str | None) -> int | None:
    """Bytes of --memory; says how a number without a unit is read. Raises SettingError."""
    if given is None:
        return None
    budget = parse_bytes(given)
    if given.strip()[-1:].isdigit():
        notes.print(f"memory: {given.strip()} means {budget / 1e9:g} GB", highlight=False)
    return budget


def megabytes(size_bytes: float) -> str:
    """A size for people: "6.5 MB"."""
    return f"{size_bytes / 1e6:,.1f} MB"
