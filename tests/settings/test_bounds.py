"""Every number that a person gives has its bounds, checked where it comes in."""

import math
from dataclasses import fields
from fractions import Fraction
from typing import get_args, get_type_hints

import numpy
import pytest

from kameleon import settings
from kameleon.errors import SettingError

KINDS = [one for one in vars(settings).values() if hasattr(one, "__dataclass_fields__")]
NUMBERS = [
    (kind, field.name)
    for kind in KINDS
    for field in fields(kind)
    if {int, float} & {(hint := get_type_hints(kind)[field.name]), *get_args(hint)}
]
HOSTILE = [
    *(math.nan, math.inf, -math.inf, numpy.float32("nan"), numpy.float64("inf"), -0.5, -1, -(10**400), 10**400, 10**20),
    *(10**5000, 1e300, Fraction(10**400), -Fraction(10**400), numpy.int64(2**62), True, False, "1", b"1", [1], (), {}),
    *(1j, object(), numpy.ones(1), numpy.True_),
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda one: getattr(one, "__name__", one))
def test_no_setting_takes_a_number_beyond_its_bounds_or_a_value_of_another_type(kind, name):
    taken = []
    for value in HOSTILE:
        try:
            taken.append(getattr(kind(**{name: value}), name))
        except SettingError as error:
            assert name in str(error)
            assert len(str(error)) < 400
    allowed = {"presence_penalty": [-0.5, -1], "frequency_penalty": [-0.5, -1], "seed": [-1, 2**62]}
    assert taken == allowed.get(name, [])


def test_a_value_in_its_bounds_is_taken_and_the_message_names_both():
    assert settings.Recipe(layers=10_000, clip_norm=10**9, learning_rate=0.5).layers == 10_000
    assert settings.Watch(save_every_s=0).save_every_s == 0
    with pytest.raises(SettingError, match=r"layers is 0; it must be from 1 to 10000, or None \(all\)"):
        settings.Recipe(layers=0)
    with pytest.raises(SettingError, match="clip_norm is 0; it must be above 0 and at most 1000000000"):
        settings.Recipe(clip_norm=0)


def test_biases_are_finite_and_of_tokens():
    huge = 10**5000
    for pair in ((huge, 1.0), (-huge, 1.0), (1, math.nan), (1, math.inf), (1, huge), (True, 1.0), (1, "1")):
        with pytest.raises(SettingError, match="logit_bias"):
            settings.Sampling(logit_bias=(pair,))
