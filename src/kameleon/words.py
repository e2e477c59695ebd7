"""Parts of messages that many files share: the nearest known name, and the first few of a long list."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `most` of the `known` names, the most similar first, of a likeness of at least `cutoff` (0 to 1)."""
    return difflib.get_close_matches(name, list(known), most, cutoff)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """ "did you mean 'NAME'?" with the nearest of `known`, or "" if none is near."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def first_few(words: Iterable[str], most: int, *, separator: str = ", ", rest: str = "more") -> str:
    """The first `most` words, and how many more there are: "a, b and 3 more"; with "; " "a; b; and 3 more"."""
    words = list(words)
    shown = separator.join(words[:most])
    if len(words) <= most:
        return shown
    return f"{shown}{'' if separator == ', ' else separator.rstrip()} and {len(words) - most} {rest}"
