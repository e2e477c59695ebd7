"""Answers that follow a JSON schema or a regular expression: after each token, which ones may come next.

The llguidance library compiles the grammar and computes the masks; a request carries a matcher of its own.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kameleon.bases import Base
from kameleon.errors import MissingExtraError, SettingError
from kameleon.settings import Sampling

_MOST_MULTIPLE = 100_000  # it compiles for half a second; for 99,999,999 the library took all memory of the machine
_SHOWN = 300  # characters of the library's message, which repeats the whole expression


class Constraint:
    """One answer's grammar and how far it has come. Raises SettingError for a schema or expression that cannot be
    followed, MissingExtraError without the library."""

    def __init__(self, sampling: Sampling, base: Base) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise MissingExtraError("json_schema and regex need a library: pip install 'kameleon[serve]'") from None
        what = "json_schema" if sampling.json_schema is not None else "regex"
        try:
            if sampling.json_schema is not None:
                # Without space between the parts: a small model can fill its answer with nothing else.
                grammar = LLMatcher.grammar_from_json_schema(
                    sampling.json_schema, defaults={"whitespace_flexible": False}
                )
            else:
                grammar = LLMatcher.grammar_from_regex(sampling.regex or "")
        except ValueError as error:
            form = "a JSON object" if what == "json_schema" else "text"
            raise SettingError(f"{what} is not {form}: {str(error)[:_SHOWN]}") from None
        if sampling.json_schema is not None:
            _check_multiples(sampling.json_schema)
        self._matcher = LLMatcher(_tokenizer(base), grammar, log_level=0)
        # Of a large grammar the first one takes seconds: here, in the asking thread, and not in the one that computes.
        self._allowed = self._next_allowed()
        if self._matcher.is_error():
            raise SettingError(f"{what} cannot be followed: {self._matcher.get_error()[:_SHOWN]}")

    def apply(self, logits: Tensor) -> Tensor:
        """`logits` [vocab_size], minus infinity for every token that may not come next."""
        return logits.masked_fill(~self._allowed[: len(logits)], float("-inf"))

    def take(self, token: int) -> bool:
        """Go on behind `token`; true when nothing can follow: the answer is whole, or the library met one of its
        own limits of time and size."""
        if not self._matcher.consume_token(token) or self._matcher.is_stopped():
            return True
        self._allowed = self._next_allowed()
        return False

    def _next_allowed(self) -> Tensor:
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0


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


@lru_cache(maxsize=4)
def _tokenizer(base: Base) -> Any:
    """The base's vocabulary as the library takes it; made once, which takes a second for a large one."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(base.tokenizer, base.config.vocab_size, sorted(base.stop_token_ids) or None)  # type: ignore[arg-type]
