"""What all commands share: results on standard output, everything else on standard error, progress with time left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from kameleon.api import LoadedBase

results = Console()
notes = Console(stderr=True)

Json = Annotated[bool, Parameter(help="Print one JSON document on standard output and nothing else there.")]
BaseRef = Annotated[str, Parameter(help="The frozen base: smollm2, a folder, a .gguf file, or a hub id owner/name.")]


def show(document: Any, picture: RenderableType, as_json: bool) -> None:
    """The result of a command: the picture for a person, or the document for a script."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    else:
        results.print(picture)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the one style; columns whose name starts with > are numbers, flush right."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on standard error, each with what is done, the time spent and the time left."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=notes,
        transient=False,
    ) as bars:
        yield bars


def open_base(ref: str) -> LoadedBase:
    """Load a base with a bar, and say where it came from and what it computes in."""
    from kameleon.api import load
    from kameleon.ops import kernels

    with progress() as bars:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        loaded = load(ref, on_progress=on_progress)
    base = loaded.base
    notes.print(f"base {base.name}: {base.files.source}", highlight=False)
    notes.print(f"computing in {base.compute_reason}", highlight=False)
    notes.print(f"kernels: {kernels().level or 'none, the reference path'} ({kernels().reason})", highlight=False)
    return loaded


def megabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
