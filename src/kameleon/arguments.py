"""Arguments and fields of a wrong type are told by name: what came, and what was expected."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from operator import index
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from kameleon.errors import WrongTypeError
from kameleon.words import came, did_you_mean, with_article

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def checked(*, apart: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that raises WrongTypeError for arguments that do not fit its annotations, all of them in one message.

    The function checks the arguments `apart` itself. A keyword that it does not have is told too, with the settings
    that have it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = cache(lambda: get_type_hints(function))

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if unknown := [name for name in kwargs if name not in signature.parameters]:
                raise WrongTypeError(f"{function.__name__}() {_no_keyword(unknown[0], kinds())}")
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # Python itself says which argument is missing
                return function(*args, **kwargs)
            checks = {name: value for name, value in given.items() if name not in apart and name in kinds()}
            faults = [fault for name, value in checks.items() for fault in _faults(name, value, kinds()[name])]
            if faults:
                raise WrongTypeError(f"{function.__name__}(): {'; '.join(faults)}")
            return function(*args, **kwargs)

        return call

    return decorate


def check_types(value: object) -> None:
    """Raise WrongTypeError that names every field of a dataclass whose value does not fit its annotation.

    Numbers of other libraries (numpy) become Python's, and lists become tuples where a tuple is expected.
    """
    kinds = _field_kinds(type(value))
    for name, kind in kinds.items():
        object.__setattr__(value, name, _plain(getattr(value, name), kind))
    faults = [fault for name, kind in kinds.items() for fault in _faults(name, getattr(value, name), kind)]
    if faults:
        raise WrongTypeError(f"{type(value).__name__}: {'; '.join(faults)}")


@cache
def _field_kinds(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]


def _plain(value: Any, kind: Any) -> Any:
    if type(value) in (int, float, bool, str, NoneType):
        return value
    if isinstance(value, Integral):
        return index(value)
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:  # of a fraction
            return math.nan  # beyond all bounds
    if isinstance(value, list) and any(get_origin(one) is tuple for one in _options(kind)):
        return tuple(tuple(one) if isinstance(one, list) else one for one in value)
    return value


def _options(kind: Any) -> tuple[Any, ...]:
    """The kinds of a union; the kind itself if it is none."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _faults(name: str, value: Any, kind: Any) -> Iterator[str]:
    if _fits(value, kind):
        return
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        lists = [one for one in _options(kind) if _is_list(one) and isinstance(value, get_origin(one))]
        if len(lists) == 1 and get_args(lists[0])[1:] in ((), (...,)):  # the item is at fault, not the list
            inner = get_args(lists[0])[0]
            at = next(i for i, one in enumerate(value) if not _fits(one, inner))
            yield from _faults(f"{name}[{at}]", value[at], inner)
            return
    yield f"{name} is {came(value)}; expected {expected(kind)}"


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list, Sequence)


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or getattr(kind, "_is_protocol", False):
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if _is_list(kind):
        if not isinstance(value, origin) or isinstance(value, str | bytes):
            return False
        if origin is tuple and inner[1:] != (...,):
            return len(value) == len(inner) and all(_fits(*pair) for pair in zip(value, inner, strict=True))
        return all(_fits(one, inner[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, origin) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    numbers = {int: Integral, float: Real}
    if not isinstance(value, numbers.get(kind, origin or kind)):
        return False
    return kind is not float or not isinstance(value, int) or abs(value) <= sys.float_info.max


def expected(kind: Any) -> str:
    """An annotation in words: "a string, a path or None"."""
    if (options := _options(kind)) != (kind,):
        words = list(dict.fromkeys(map(expected, options)))
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple and inner[1:] != (...,):
        return f"a pair ({', '.join(map(expected, inner))})"
    if _is_list(kind):
        return f"a list, each item {expected(inner[0])}"
    if origin is not None and issubclass(origin, Callable):
        return "a function"
    return _WORDS.get(kind) or with_article(getattr(origin or kind, "__name__", str(kind)))


def _no_keyword(name: str, kinds: dict[str, Any]) -> str:
    for keyword, kind in kinds.items():
        for settings in filter(is_dataclass, _options(kind)):
            if name in (field.name for field in fields(settings)):
                value = f"{getattr(settings, '__name__', '')}({name}=...)"
                return f"has no keyword {name}, which is a setting: give {keyword}={value}"
    known = [one for one in kinds if one != "return"]
    hint = did_you_mean(name, known)
    return f"has no keyword {name}{hint and '; ' + hint}; it has {', '.join(known)}"
