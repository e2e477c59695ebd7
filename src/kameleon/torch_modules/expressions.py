"""Regular expressions out of a stranger's file: they match as in Python's `re`, and in limited time."""

from __future__ import annotations

import math
import re
import time
from typing import TypeAlias

import regex

from kameleon.errors import LoraError

Expression: TypeAlias = regex.Pattern[str]
Match: TypeAlias = regex.Match[str]

_LONGEST_CHARACTERS = 1 << 20
_MOST_REPEATS = 1000  # by counts such as {3}, which `regex` writes out when it compiles
_TIME_S = 1.0  # of one core, for all matches of one file together; what people write takes a thousandth


class Expressions:
    """All expressions of one file, whose matches share one second."""

    def __init__(self) -> None:
        self._left_s = _TIME_S

    def compiled(self, text: str) -> Expression:
        """Raises LoraError for text that is no expression, or is too large a one."""
        counts = [int(most or least or 1) for least, most in re.findall(r"\{(\d{,9}),?(\d{,9})\}", text)]
        if len(text) > _LONGEST_CHARACTERS or math.prod(max(count, 1) for count in counts) > _MOST_REPEATS:
            raise LoraError(f"{text[:80]!r} repeats too much to be matched; name the modules plainly")
        try:
            re.compile(text)
            return regex.compile(text)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise LoraError(f"{text[:80]!r} is no regular expression: {error}") from error

    def match(self, expression: Expression, name: str) -> Match | None:
        """The match at the beginning of `name`. Raises LoraError when time is over."""
        start = time.thread_time()
        try:
            return expression.match(name, timeout=max(self._left_s, 1e-3))
        except TimeoutError as error:
            raise LoraError(
                f"{expression.pattern[:80]!r} takes too long to be matched; name the modules plainly"
            ) from error
        finally:
            self._left_s -= time.thread_time() - start
