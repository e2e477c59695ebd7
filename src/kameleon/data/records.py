"""One row as it stands in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file. `fault` says why it could not be read; `value` is then empty."""

    number: int
    """Its line in JSONL, its row in a spreadsheet (the header is row 1), elsewhere its place, from 1. The
    numbers go on from part to part of a file in parts."""
    value: dict[str, Any]
    fault: str | None = None
    empty: bool = False
    """Whether the fault is an empty cell of a table. Such a row is left out; any other fault stops a run."""
