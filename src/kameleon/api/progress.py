"""A bar while something takes long: in a terminal and in a notebook, and nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kameleon.terminal import printable

_EVERY_S = 0.2  # between two changes of a notebook's line

Move = Callable[[str, float, float], None]
"""Called with what runs, how much of it is done, and the total."""


@contextmanager
def bar(*, shown: bool) -> Iterator[Move]:
    """Yields the function that moves the bar. With `shown` false, or where nobody would see it, it does nothing."""
    if shown and (display := _notebook_display()) is not None:
        yield _line(display)
    elif shown and sys.stderr is not None and sys.stderr.isatty():
        with _in_terminal() as move:
            yield move
    else:
        yield lambda what, done, total: None


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display`, in the kernel of a notebook; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display  # pyright: ignore[reportMissingImports] (a notebook has it)

    return display


def _line(display: Callable[..., Any]) -> Move:
    """One line of text that changes in its place; it needs no widgets."""
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    started = told = time.perf_counter()

    def move(what: str, done: float, total: float) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told < _EVERY_S and done < total:
            return
        told = now
        share = min(1.0, done / total) if total else 0.0
        left = "" if not share else f", {(now - started) * (1 - share) / share:.0f} s left"
        shown = f"{printable(what)}  {'█' * round(24 * share):░<24} {share:.0%}, {now - started:.0f} s elapsed{left}"
        handle.update({"text/plain": shown}, raw=True)

    return move


@contextmanager
def _in_terminal() -> Iterator[Move]:
    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, total: bars.update(task, description=printable(what), completed=done, total=total)
