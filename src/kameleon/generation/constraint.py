"""Answers that follow a JSON schema or a regular expression: after each token, which ones may come next.

The llguidance library compiles the grammar and computes the masks; a request carries a matcher of its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kameleon.errors import MissingExtraError, SettingError
from kameleon.model import Base
from kameleon.settings import Sampling


class Constraint:
    """One answer's grammar and how far it has come. Raises SettingError for a schema or expression that cannot be
    followed, MissingExtraError without the library."""

    def __init__(self, sampling: Sampling, base: Base) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise MissingExtraError("json_schema and regex need a library: pip install 'kameleon[serve]'") from None
        try:
            if sampling.json_schema is not None:
                # Without space between the parts: a small model can fill its answer with nothing else.
                grammar = LLMatcher.grammar_from_json_schema(
                    sampling.json_schema, defaults={"whitespace_flexible": False}
                )
            else:
                grammar = LLMatcher.grammar_from_regex(sampling.regex or "")
        except ValueError as error:
            raise SettingError(f"json_schema is not a JSON object: {error}") from None
        self._matcher = LLMatcher(_tokenizer(base), grammar, log_level=0)
        if self._matcher.is_error():
            what = "json_schema" if sampling.json_schema is not None else "regex"
            raise SettingError(f"{what} cannot be followed: {self._matcher.get_error()}")

    def apply(self, logits: Tensor) -> Tensor:
        """`logits` [vocab_size], minus infinity for every token that may not come next."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        return logits.masked_fill(~allowed[: len(logits)], float("-inf"))

    def take(self, token: int) -> bool:
        """Go on behind `token`; true when nothing can follow: the answer is whole, or the library met one of its
        own limits of time and size."""
        return not self._matcher.consume_token(token) or self._matcher.is_stopped()


@lru_cache(maxsize=4)
def _tokenizer(base: Base) -> Any:
    """The base's vocabulary as the library takes it; made once, which takes a second for a large one."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(base.tokenizer, base.config.vocab_size, sorted(base.stop_token_ids) or None)  # type: ignore[arg-type]
