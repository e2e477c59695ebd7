"""The grammars of one base's answers: tried in a process of their own, compiled once, kept while they are in use."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kameleon.bases import Base
from kameleon.errors import MissingExtraError, SettingError
from kameleon.generation.constraint import Constraint
from kameleon.generation.json_schema import computable
from kameleon.generation.trial import SHOWN_CHARACTERS, TRIAL
from kameleon.settings import Form
from kameleon.settings.generation import COMPILE_CPU_S

if TYPE_CHECKING:
    from kameleon.generation.compiling import Compiled

_KEPT = 8  # compiled grammars, of at most some 30 MB each, for the next request with the same form
_MOST_MULTIPLE = 100_000  # it compiles for half a second; for 99,999,999 the library took all memory of the machine
_MOST_MEMBERS = 1000  # of one object: an object of k optional properties takes k² time, half a second for 1,000


class Grammars:
    """Constraints of answers, one compiled grammar for all with the same form. Safe for several threads."""

    def __init__(self, base: Base, *, compile_cpu_s: float) -> None:
        self._base, self._cpu_s = base, compile_cpu_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[Form, Compiled] = OrderedDict()

    def constraint(self, form: Form) -> Constraint:
        """The constraint of one answer. Raises SettingError for a form that cannot be followed, or not within the
        limits; MissingExtraError without the library; KameleonError where `end` ended it."""
        found = self.kept(form)
        if found is not None:
            return found
        try:
            from kameleon.generation.compiling import compiled
            from kameleon.generation.vocabulary import vocabulary_of
        except ImportError:
            raise MissingExtraError("json_schema and regex need llguidance", "serve") from None
        words, vocabulary = vocabulary_of(self._base)
        text = _plain(form)
        TRIAL.check(form, text, (words.tokens, words.special_token_ids, words.end_tokens), cpu_s=self._cpu_s)
        try:
            made = compiled(form.kind, text, vocabulary)
        except ValueError as error:
            raise SettingError(f"{form.kind} cannot be followed: {str(error)[:SHOWN_CHARACTERS]}") from None
        with self._lock:
            self._kept[form] = made
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return Constraint(form.kind, made.matcher.deep_copy(), made.mask)

    def kept(self, form: Form) -> Constraint | None:
        """The constraint of one answer if its grammar is compiled already."""
        with self._lock:
            if form not in self._kept:
                return None
            self._kept.move_to_end(form)
            made = self._kept[form]
            return Constraint(form.kind, made.matcher.deep_copy(), made.mask)

    @staticmethod
    def end(form: Form) -> None:
        """End the try of `form`, if it runs: `constraint` raises KameleonError in its thread."""
        TRIAL.end(form)


@lru_cache(maxsize=4)
def grammars_of(base: Base, compile_cpu_s: float = COMPILE_CPU_S) -> Grammars:
    """The grammars of a base, kept from one call to the next."""
    return Grammars(base, compile_cpu_s=compile_cpu_s)


def _plain(form: Form) -> str:
    """The form's text in the words that the library knows. Raises SettingError for one that is none or too large."""
    try:
        form.text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(f"{form.kind} is not text: {str(error)[:SHOWN_CHARACTERS]}") from None
    if form.kind == "regex":
        return form.text
    schema = _parsed(form.text)
    _check_multiples(form.text)
    return json.dumps(computable(schema))


def _parsed(schema: str) -> dict[str, Any]:
    def checked(part: dict[str, Any]) -> dict[str, Any]:
        if len(part) > _MOST_MEMBERS:
            raise SettingError(
                f"json_schema has an object of {len(part):,} members, and compiling takes the square of their number; "
                f"{_MOST_MEMBERS:,} is the most"
            )
        return part

    try:
        value = json.loads(schema, object_hook=checked)
    except SettingError:
        raise
    except (ValueError, RecursionError) as error:
        raise SettingError(f"json_schema is not a JSON object: {str(error)[:SHOWN_CHARACTERS]}") from None
    if not isinstance(value, dict):
        raise SettingError(f"json_schema is not a JSON object: {schema[:SHOWN_CHARACTERS]}")
    return value


def _check_multiples(schema: str) -> None:
    """Raises SettingError for a `multipleOf`, or several that may have to hold together, of too many states: the
    library makes one for each remainder, and has no limit for them."""
    found: list[Decimal] = []

    def look(part: dict[str, Any]) -> None:
        if isinstance(part.get("multipleOf"), Decimal):
            found.append(part["multipleOf"])

    json.loads(schema, object_hook=lambda part: look(part) or part, parse_int=Decimal, parse_float=Decimal)
    # Powers of ten cost nothing, so only the digits before the last zeros count.
    together = math.lcm(*(int("".join(map(str, one.normalize().as_tuple().digits))) for one in found))
    if together > _MOST_MULTIPLE:
        raise SettingError(
            f"json_schema cannot be followed: numbers that are multiples of {together:,}, as its multipleOf may ask "
            f"together, take too much memory; {_MOST_MULTIPLE:,} is the most, beside powers of ten"
        )
