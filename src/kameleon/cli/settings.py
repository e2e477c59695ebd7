"""Settings on the command line: the sentence under each field explains it, and a 0 may mean None."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any

from cyclopts import Parameter

from kameleon.settings import Execution, Recipe, Sampling, Watch

_ZERO_DERIVES = (
    "--layers",
    "--learning-rate",
    "--lr",
    "--eval-every",
    "--kv-cache-bytes",
    "--adapter-bytes",
)
"""Flags whose 0 means that the value is derived. Settings have None for that, which is `none` on a command line."""


class _Given:
    """Settings with the fields that a person gave in `given`: a given value may be equal to the default."""

    given: dict[str, Any]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        object.__setattr__(self, "given", given)


class GivenRecipe(_Given, Recipe):
    """The recipe on a command line."""

    learning_rate: Annotated[float | None, Parameter(alias="--lr")]


class GivenWatch(_Given, Watch):
    """How the run is watched, on a command line."""


class GivenExecution(_Given, Execution):
    """How the run is computed, on a command line."""


class GivenSampling(_Given, Sampling):
    """How an answer's tokens are chosen, on a command line."""


def zeros_to_none(words: Sequence[str]) -> list[str]:
    """The words of a command line with `none` in place of each 0 that means that a value is derived."""
    changed = []
    for before, word in pairwise(["", *words]):
        flag, equals, value = word.partition("=")
        changed.append(f"{flag}={zero_to_none(flag, value)}" if equals else zero_to_none(before, word))
    return changed


def zero_to_none(flag: str, value: Any) -> Any:
    """`value`, or "none" if it is a 0 that means that the value of `flag` is derived."""
    return "none" if flag.replace("_", "-") in _ZERO_DERIVES and _is_zero(value) else value


def _is_zero(value: Any) -> bool:
    with suppress(ValueError):
        return float(str(value)) == 0
    return False


@dataclass(frozen=True)
class Setting:
    """One field of a settings value, whether it differs from the default, and the default's reason."""

    name: str
    value: Any
    changed: bool
    reason: str


def explain(settings: Any, defaults: Any) -> list[Setting]:
    """Every field of a settings dataclass with its sentence."""
    sentences = _sentences(type(settings))
    return [
        Setting(
            field.name,
            getattr(settings, field.name),
            getattr(settings, field.name) != getattr(defaults, field.name),
            sentences[field.name],
        )
        for field in fields(settings)
    ]


def sampling_words(sampling: Sampling) -> str:
    """The temperature and the other settings that are not at their defaults: "temperature 0.2, top_p 0.9"."""
    others = ("top_p", "top_k", "min_p", "repetition_penalty")
    changed = [name for name in others if getattr(sampling, name) != getattr(Sampling, name)]
    return ", ".join(f"{name} {getattr(sampling, name):g}" for name in ["temperature", *changed])


def _sentences(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return found
