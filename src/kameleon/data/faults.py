"""What is wrong with rows, and how many equal faults become one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kameleon.words import first_few


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row. A fatal fault stops training. Any other is only reported; its row is left out of
    training if it is skipped or has no trained token."""

    row: int
    reason: str
    fatal: bool
    skipped: bool = False
    """Whether the row is left out, because a cell is empty or bad rows are to be skipped."""


def describe_faults(faults: Iterable[Fault]) -> str:
    """The first five reasons in one line: "row 2, 3, 4 and 57 more: empty answer; row 9: ..."."""
    told = (f"row {rows}: {fault.reason}" for rows, fault in by_reason(faults))
    return first_few(told, 5, separator="; ", rest="more reasons (see `base.check(rows)`)")


def by_reason(faults: Iterable[Fault]) -> list[tuple[str, Fault]]:
    """One entry for each reason: the numbers of its rows ("1, 2, 3 and 57 more") and its first fault, fatal ones first.

    A column with a wrong name is a fault of every row, and is told once.
    """
    groups: dict[tuple[bool, str], list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: not fault.fatal):
        groups.setdefault((fault.fatal, fault.reason), []).append(fault)
    return [(first_few((str(fault.row) for fault in group), 3), group[0]) for group in groups.values()]
