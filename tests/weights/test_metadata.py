"""Metadata read with the type that is expected of it; what is wrong is named by its key."""

import math

import pytest

from kameleon.errors import WeightsError
from kameleon.weights import Metadata

SAID = Metadata(
    {
        "n": 3,
        "far": (1 << 63) - 1,
        "x": 0.5,
        "on": True,
        "name": "a",
        "none": None,
        "zero": 0,
        "bad": math.inf,
        "row": [1, 2],
    },
    "f.gguf",
)


def test_values_of_the_expected_type_are_given():
    assert (SAID.need("n", int), SAID.need("x", float), SAID.need("on", bool), SAID.need("name", str)) == (
        3,
        0.5,
        True,
        "a",
    )
    assert SAID.need("n", float) == 3.0
    assert type(SAID.need("n", float)) is float
    assert SAID.find("absent", int, 7) == SAID.find("none", int, 7) == 7
    assert SAID.size("n") == 3
    assert SAID.size("absent", 5) == 5
    assert SAID.row("row", int, 2) == [1, 2]


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: SAID.need("absent", int), "f.gguf lacks the metadata absent"),
        (lambda: SAID.need("none", int), "f.gguf lacks the metadata none"),
        (lambda: SAID.need("x", int), "x in f.gguf is 0.5; it must be a whole number"),
        (lambda: SAID.find("on", int, 1), "on in f.gguf is True; it must be a whole number"),
        (lambda: SAID.size("far"), "far in f.gguf is 9223372036854775807; it must be a whole number between"),
        (lambda: SAID.find("n", bool, default=False), "n in f.gguf is 3; it must be true or false"),
        (lambda: SAID.find("bad", float, 1.0), "bad in f.gguf is inf; it must be a number"),
        (lambda: SAID.size("zero"), "zero in f.gguf is 0; it must be at least 1"),
        (lambda: SAID.row("name", str), "name in f.gguf is 'a'; it must be a list"),
        (lambda: SAID.row("row", int, 3), "row in f.gguf has 2 values; it must have 3"),
        (lambda: SAID.row("row", str), "row in f.gguf is 1; it must be text"),
        (lambda: SAID.row("absent", str), "f.gguf lacks the metadata absent"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(read, said):
    with pytest.raises(WeightsError) as caught:
        read()
    assert said in str(caught.value)
