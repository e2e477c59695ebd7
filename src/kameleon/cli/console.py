"""Shared by all commands: results go to standard output, all else to standard error; bars show the time left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kameleon.errors import SettingError
from kameleon.home import atomic_write
from kameleon.settings import ComputeName
from kameleon.terminal import printable

if TYPE_CHECKING:
    from kameleon.api import LoadedBase

# Without markup and emoji, names such as "[/v1]" or ":x:" are shown as they are.
results = Console(markup=False, emoji=False)
notes = Console(markup=False, emoji=False, stderr=True)

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
        help="Stay inside this much memory (6GB). Chooses micro-batch-tokens and checkpoint-layers where you do not "
        "set them, and packs the base to 4 bits if it does not fit otherwise."
    ),
]
BaseRef = Annotated[
    str, Parameter(help="The frozen base: smollm2 or gemma3-270m, a folder, a .gguf file, or a hub id owner/name.")
]
Raw = Annotated[bool, Parameter(help="Prompt and completion as they are, without the chat template.")]
AnyBase = Annotated[bool, Parameter(help="Accept adapters that were trained on another base.")]
Overwrite = Annotated[bool, Parameter(help="Put it in the place of an adapter of that name.")]


def in_one_line(text: str, most: int = 300) -> str:
    """Text of a file for one line of the terminal: line breaks become spaces, and it is cut after `most` characters."""
    line = " ".join(text.split())
    return printable(line if len(line) <= most else f"{line[:most]}…")


def show(document: Any, picture: RenderableType, *, as_json: bool) -> None:
    """Print the result of a command: the picture for a person, or the document for a script.

    Raises SettingError when standard output cannot be written (disk full).
    """
    try:
        if as_json:
            print(_json_text(document, ensure_ascii=False), flush=True)
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
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


def bars(values: Mapping[Any, float], what: str) -> Table:
    """A table of numbers with a bar for each; the largest number has the longest bar."""
    made, largest = table(what, ">norm", ""), max(values.values(), default=0.0) or 1.0
    for name, value in values.items():
        made.add_row(str(name), f"{value:.3g}", "█" * round(30 * value / largest))
    return made


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on standard error, each with the count done, the time spent and the time left."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=notes,
        transient=False,
    ) as bars:
        yield bars


def open_base(ref: str, quantize: str | None = None, *, compute: ComputeName | None = None) -> LoadedBase:
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


def megabytes(size_bytes: float) -> str:
    """A size for people: "6.5 MB"."""
    return f"{size_bytes / 1e6:,.1f} MB"
