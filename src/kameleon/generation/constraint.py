"""Answers that follow a JSON schema or a regular expression: after each token, which ones may come next.

The llguidance library compiles the grammar and computes the masks; a request carries a matcher of its own.
"""

from __future__ import annotations

import json
import math
from copy import copy
from decimal import Decimal
from functools import lru_cache
from typing import Any

import torch
from tokenizers import normalizers
from torch import Tensor

from kameleon.bases import Base
from kameleon.errors import MissingExtraError, SettingError
from kameleon.generation.json_schema import computable
from kameleon.settings import Sampling
from kameleon.text import TokenBytes
from kameleon.text.token_bytes import SENTENCE_PIECE_SPACE, encoder_of

_MOST_MULTIPLE = 100_000  # it compiles for half a second; for 99,999,999 the library took all memory of the machine
_SHOWN = 300  # characters of the library's message, which repeats the whole expression


class Constraint:
    """One answer's grammar and how far it has come. Raises SettingError for a schema or expression that cannot be
    followed, MissingExtraError without the library."""

    def __init__(self, sampling: Sampling, base: Base) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise MissingExtraError("json_schema and regex need llguidance", "serve") from None
        self._what = "json_schema" if sampling.json_schema is not None else "regex"
        schema = None if sampling.json_schema is None else computable(_parsed(sampling.json_schema))
        try:
            if schema is not None:
                # Without space between the parts: a small model can fill its answer with nothing else.
                grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
            else:
                grammar = LLMatcher.grammar_from_regex(sampling.regex or "")
        except ValueError as error:
            raise SettingError(f"{self._what} is not text: {str(error)[:_SHOWN]}") from None
        if sampling.json_schema is not None:
            _check_multiples(sampling.json_schema)
        self._matcher = LLMatcher(_vocabulary(base), grammar, log_level=0)
        # Of a large grammar the first one takes seconds: here, in the asking thread, and not in the one that computes.
        self._allowed = self._next_allowed()

    def apply(self, logits: Tensor) -> Tensor:
        """`logits` [vocab_size], minus infinity for every token that may not come next."""
        return logits.masked_fill(~self._allowed[: len(logits)], float("-inf"))

    def take(self, token: int) -> bool:
        """Go on behind `token`; true when the answer is whole and nothing can follow.

        Raises SettingError where the library meets one of its own limits of time and size, or no token can follow
        although the answer is not whole.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_stopped() and not self._matcher.is_error():
            return True
        self._allowed = self._next_allowed()
        return False

    def _next_allowed(self) -> Tensor:
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        if self._matcher.is_error():
            raise SettingError(f"{self._what} cannot be followed: {self._matcher.get_error().strip()[:_SHOWN]}")
        if not allowed.any():
            raise SettingError(f"{self._what} cannot be followed: no token of this base can come next")
        return allowed


def _parsed(schema: str) -> dict[str, Any]:
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"json_schema is not a JSON object: {str(error)[:_SHOWN]}") from None
    if not isinstance(value, dict):
        raise SettingError(f"json_schema is not a JSON object: {schema[:_SHOWN]}")
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


@lru_cache(maxsize=4)
def _vocabulary(base: Base) -> Any:
    """The base's vocabulary as the library takes it; made once, which takes a second for a large one."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if not base.stop_token_ids:
        raise SettingError("this base has no end token, so an answer of a given form could not end")
    tokens = _Tokens(base)
    return LLTokenizer(TokenizerWrapper(tokens), n_vocab=len(tokens.tokens), eos_token=sorted(base.stop_token_ids))


class _Tokens:
    """What the library asks of a tokenizer. Text never becomes a special token here: `<|im_end|>` in a schema is six
    ordinary tokens, and the token of that name ends the answer."""

    bos_token_id = None

    def __init__(self, base: Base) -> None:
        own = TokenBytes(base.tokenizer)
        special = own.special_ids | base.stop_token_ids
        self.special_token_ids = sorted(special)
        self.eos_token_id = min(base.stop_token_ids)
        # The library knows special tokens by a first byte that no text has.
        self.tokens = [b"\xff" * (token in special) + own[token] for token in range(base.config.vocab_size)]
        self._single = {one: token for token, one in reversed([*enumerate(self.tokens)]) if len(one) == 1}
        self._encoder = copy(encoder_of(base.tokenizer))
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._encoder.encode_special_tokens = True  # as the letters of their names
        if self._spelled(self._encode("a")) == b" a":  # SentencePiece, where a text begins; this one goes on
            self._encoder.normalizer, self._encoder.pre_tokenizer = normalizers.Replace(" ", SENTENCE_PIECE_SPACE), None  # type: ignore[assignment]

    def __call__(self, text: bytes) -> list[int]:
        """The tokens that the model would write `text` with, byte by byte where the tokenizer would change it."""
        tokens = self._encode(text.decode())
        if self._spelled(tokens) == text:
            return tokens
        return [self._single[text[at : at + 1]] for at in range(len(text)) if text[at : at + 1] in self._single]

    def _encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids

    def _spelled(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)
