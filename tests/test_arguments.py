"""Arguments and fields of a wrong type are told by name, and a keyword that does not exist with where it belongs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import pytest

from kameleon.arguments import check_types, checked, expected
from kameleon.errors import WrongTypeError


@dataclass(frozen=True)
class Knobs:
    """Settings."""

    rank: int = 1
    rate: float | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)


@checked(apart=["free"])
def public(
    name: str,
    free: int = 0,
    *,
    many: Sequence[str | None] | str | None = None,
    kind: Literal["nf4"] | None = None,
    on: bool = False,
    call: Callable[[int], None] | None = None,
    knobs: Knobs | None = None,
    table: Mapping[str, int] | None = None,
) -> str:
    """A function with arguments of every kind."""
    return name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": 3}, "public(): name is 3 (int); expected a string"),
        ({"name": "x", "many": ["a", 3]}, "many[1] is 3 (int); expected a string or None"),
        ({"name": "x", "many": b"a"}, "many is b'a' (bytes); expected a list, each item a string or None, a string"),
        ({"name": "x", "kind": "int8"}, "kind is 'int8' (str); expected 'nf4' or None"),
        ({"name": "x", "on": 1}, "on is 1 (int); expected True or False"),
        ({"name": "x", "call": 1}, "call is 1 (int); expected a function or None"),
        ({"name": "x", "knobs": {"rank": 1}}, "knobs is a dict; expected a Knobs or None"),
        ({"name": "x", "table": {"a": "b"}}, "table is a dict; expected a Mapping or None"),
        ({"name": None, "on": None}, "name is None; expected a string; on is None; expected True or False"),
        ({"name": "x", "rank": 1}, "public() has no keyword rank, which is a setting: give knobs=Knobs(rank=...)"),
        ({"name": "x", "knob": 1}, "public() has no keyword knob; did you mean 'knobs'?"),
    ],
)
def test_every_argument_that_does_not_fit_is_told(arguments, told):
    with pytest.raises(WrongTypeError) as caught:
        public(**arguments)
    assert told in str(caught.value)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ValueError)


def test_arguments_that_fit_go_through_and_missing_ones_are_pythons_error():
    assert public("x", "checked elsewhere", many=["a", None], kind="nf4", on=True, call=print, knobs=Knobs()) == "x"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        public()


def test_fields_are_checked_and_numbers_of_numpy_and_lists_become_pythons():
    made = Knobs(rank=numpy.int64(3), rate=numpy.float32(0.5), stop=["a"])
    assert made == Knobs(3, 0.5, ("a",))
    assert (type(made.rank), type(made.rate), type(made.stop)) == (int, float, tuple)
    assert Knobs(rate=1).rate == 1
    with pytest.raises(
        WrongTypeError, match=r"Knobs: rank is '8' \(str\); expected a whole number; stop is 'a' \(str\)"
    ):
        Knobs(rank="8", stop="a")
    with pytest.raises(WrongTypeError, match=r"rank is True \(bool\)"):
        Knobs(rank=True)
    with pytest.raises(WrongTypeError, match=r"rank is 8.0 \(float\)"):
        Knobs(rank=8.0)


def test_annotations_in_words():
    assert expected(str | Path | None) == "a string, a Path or None"
    assert expected(tuple[tuple[int, float], ...]) == "a list, each item a pair (a whole number, a number)"
    assert expected(Any) == "an Any"
