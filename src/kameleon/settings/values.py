"""Values that settings share: their limits, names of types, amounts of memory, and how a field is refused."""

from __future__ import annotations

import re
from typing import Literal

from kameleon.errors import SettingError

MOST_RANK = 4096
"""Of any adapter: beyond any use, and a file that says more is damaged or hostile."""
MOST_ALPHA = MOST_RANK**2
SEEDS = range(-(2**63), 2**64)
"""Seeds that torch takes."""

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


def within(value: float | None, above: float, most: float) -> bool:
    """Whether a value that may be None lies above one number and is at most another."""
    return value is None or above < value <= most


def check(settings: object, *rules: tuple[str, str, bool]) -> None:
    """Raise one SettingError that names every field whose rule does not hold."""
    faults = [f"{name} is {getattr(settings, name)}; it must be {wish}" for name, wish, holds in rules if not holds]
    if faults:
        raise SettingError("; ".join(faults))
