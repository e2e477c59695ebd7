"""Values that settings share: their limits, names of types, amounts of memory, and how a field is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kameleon.errors import SettingError
from kameleon.words import number_in_words

MOST_RANK = 4096
"""Of any adapter: beyond any use, and a file that says more is damaged or hostile."""
MOST_ALPHA = MOST_RANK**2
SEEDS = range(-(2**63), 2**64)
"""Seeds that torch takes."""

MOST_COUNT = 10**9
"""Of rows, tokens, steps and the like: beyond any use."""
MOST_LAYERS = 10**4
MOST_BYTES = 10**17
MOST_S = 10**8
"""Of seconds: three years. Python's timers take not much more."""

ComputeName = Literal["bf16", "fp32"]
"""The types that a base can be multiplied in; `ops.COMPUTE_TYPES` has torch's for each."""

_UNITS = {"": 10**9, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MOST_GB = 100_000  # of memory, beyond any machine


def parse_bytes(text: str) -> int:
    """ "6GB" or "512 MiB" as bytes; a number without a unit is GB. Raises SettingError for anything else, for less than
    one byte, and for a number without a unit that can only be bytes."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match and match[2].upper() in _UNITS else 0
    if size < 1:
        raise SettingError(f"{text!r} is not an amount of memory; write it as 6GB, 512MB or 4GiB")
    if match and not match[2] and size > _MOST_GB * 10**9:
        raise SettingError(f"{text.strip()} without a unit is GB, which no machine has; write it as {text.strip()}B")
    return size


@dataclass(frozen=True)
class Span:
    """The numbers that a field may hold: from `least` to `most`, without `least` itself if it is `open`.

    `none` says what None means where the field may be None, and `zero` what 0 means.
    """

    name: str
    least: float
    most: float
    open: bool = False
    none: str = ""
    zero: str = ""

    def holds(self, value: float | None) -> bool:
        """Whether a value lies in it; NaN does not."""
        if value is None:
            return True
        return self.least < value <= self.most if self.open else self.least <= value <= self.most

    def __str__(self) -> str:
        least = f"{self.least}{self.zero and f' ({self.zero})'}"
        span = f"above {least} and at most {self.most}" if self.open else f"from {least} to {self.most}"
        return f"{span}, or None ({self.none})" if self.none else span


def check(settings: object, *rules: Span | tuple[str, str, bool]) -> None:
    """Raise one SettingError that names every field whose rule does not hold. A number's rule is its span."""
    told = [
        (one.name, str(one), one.holds(getattr(settings, one.name))) if isinstance(one, Span) else one for one in rules
    ]
    faults = [
        f"{name} is {_told(getattr(settings, name))}; it must be {wish}" for name, wish, holds in told if not holds
    ]
    if faults:
        raise SettingError("; ".join(faults))


def _told(value: object) -> object:
    return number_in_words(value) if type(value) is int else value
