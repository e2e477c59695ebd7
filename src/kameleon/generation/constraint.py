"""Answers that follow a JSON schema or a regular expression: after each token, which ones may come next.

The llguidance library computes the masks; an answer carries a matcher of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kameleon.errors import SettingError
from kameleon.generation.trial import SHOWN_CHARACTERS

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Constraint:
    """How far one answer has come in its grammar. `kind` is its form's, `matcher` is the answer's own, and `mask` has a
    byte for each token: 0 where it may not come first."""

    def __init__(self, kind: str, matcher: LLMatcher, mask: bytes) -> None:
        self._kind, self._matcher = kind, matcher
        self._allowed = _allowed(mask)

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
        from kameleon.generation.compiling import next_mask

        try:
            self._allowed = _allowed(next_mask(self._matcher))
        except ValueError as error:
            raise SettingError(f"{self._kind} cannot be followed: {str(error)[:SHOWN_CHARACTERS]}") from None
        return False


def _allowed(mask: bytes) -> Tensor:
    return torch.frombuffer(bytearray(mask), dtype=torch.uint8) != 0
