"""Parts of messages that many files share: the nearest known name, the first few of a long list, a value that came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from numbers import Number
from reprlib import Repr
from typing import Any


def nearest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `most` of the `known` names, the most similar first, of a likeness of at least `cutoff` (0 to 1)."""
    return difflib.get_close_matches(name, list(known), most, cutoff)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """ "did you mean 'NAME'?" with the nearest of `known`, or "" if none is near."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def first_few(words: Iterable[str], most: int, *, separator: str = ", ", rest: str = "more") -> str:
    """The first `most` words, and how many more there are: "a, b and 3 more"; with "; " "a; b; and 3 more".

    A single further word is shown: its name is as short as "and 1 more".
    """
    words = list(words)
    if len(words) <= most + 1:
        return separator.join(words)
    shown = separator.join(words[:most])
    return f"{shown}{'' if separator == ', ' else separator.rstrip()} and {len(words) - most} {rest}"


def came(value: object) -> str:
    """A value that is not of the expected type, in a few words: "None", "3 (int)", "a DataFrame"."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str | bytes | Number):
        shown = number_in_words(value) if isinstance(value, int) else repr(value)
        return f"{shown if len(shown) <= 60 else shown[:59] + '…'} ({kind})"
    return with_article(kind)


def number_in_words(value: int) -> str:
    """The digits of a whole number; only that they are many where they are, because Python refuses to write 4,301."""
    return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"


def with_article(noun: str) -> str:
    """ "a list", "an ndarray"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


_SHORT = Repr()
_SHORT.maxlevel = _SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxother = 60
_MOST_SHOWN = 280  # characters: three lines


def short_repr(self: Any) -> str:
    """A dataclass as repr shows it, in at most three lines: long values are cut, and what is None or empty left out."""
    shown = ((field.name, getattr(self, field.name)) for field in fields(self) if field.repr)
    parts = (f"{name}={_SHORT.repr(one)}" for name, one in shown if one is not None and one != () and one != {})
    text = ", ".join(parts)
    return f"{type(self).__name__}({text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + '…'})"
