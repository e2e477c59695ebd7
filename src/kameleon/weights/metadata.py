"""Values by key out of a base's file, with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from kameleon.errors import WeightsError

T = TypeVar("T", bound=int | float | bool | str)
Default = TypeVar("Default")
_LARGEST = 1 << 53
"""More than any base counts, and far from where sums of kernels' 64-bit numbers overflow."""
_WORDS = {
    int: f"a whole number between -{_LARGEST:,} and {_LARGEST:,}",
    float: "a number",
    bool: "true or false",
    str: "text",
}


class Metadata(dict[str, Any]):
    """Metadata of the file `where`. Methods raise WeightsError, naming the key, for a missing value or one of another
    type; None counts as missing, like null in JSON.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where

    def need(self, key: str, kind: type[T]) -> T:
        """The value of `key`, which must exist."""
        if super().get(key) is None:
            raise WeightsError(f"{self.where} lacks the metadata {key}; fetch the base again")
        return self._checked(key, self[key], kind)

    def find(self, key: str, kind: type[T], default: Default) -> T | Default:
        """The value of `key`, or `default` if there is none."""
        return default if super().get(key) is None else self._checked(key, self[key], kind)

    def size(self, key: str, default: int | None = None) -> int:
        """A count of at least 1; it must exist if there is no `default`."""
        value = self.need(key, int) if default is None else self.find(key, int, default)
        if value < 1:
            raise WeightsError(f"{key} in {self.where} is {value}; it must be at least 1")
        return value

    def row(self, key: str, kind: type[T], length: int | None = None) -> list[T]:
        """A list, which must exist, of values of one type, and of `length` if that is given."""
        values = super().get(key)
        if values is None:
            raise WeightsError(f"{self.where} lacks the metadata {key}; fetch the base again")
        if not isinstance(values, list):
            raise WeightsError(f"{key} in {self.where} is {_shown(values)}; it must be a list")
        if length is not None and len(values) != length:
            raise WeightsError(f"{key} in {self.where} has {len(values):,} values; it must have {length:,}")
        return [self._checked(key, value, kind) for value in values]

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and type(value) is int:
            value = float(value) if value.bit_length() < 1024 else math.inf  # as JSON's 1e999 is read
        beyond = not math.isfinite(value) if isinstance(value, float) else type(value) is int and abs(value) > _LARGEST
        if type(value) is not kind or beyond:
            raise WeightsError(f"{key} in {self.where} is {_shown(value)}; it must be {_WORDS[kind]}")
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
