"""Tokens become text as soon as no later token can change it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from kameleon.generation.stops import StopSearch
from kameleon.text import TokenBytes


class TextStream:
    """The text of one growing answer, and whether a stop string ended it.

    It continues the prompt: a first word keeps the space before it. Bytes that are no UTF-8 become replacement
    characters, those at the end only when the answer is over.
    """

    def __init__(self, token_bytes: TokenBytes, stops: Sequence[str]) -> None:
        self._token_bytes, self._search = token_bytes, StopSearch(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._given: list[str] = []
        self._held = ""  # the end of the text, which may be the beginning of a stop string
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._given)

    def take(self, tokens: Sequence[int], *, finished: bool) -> str:
        """The characters that became certain now that `tokens` have followed the earlier ones."""
        new = self._decoder.decode(b"".join(map(self._token_bytes.said, tokens)), final=finished)
        text, found = self._held + new, self._search.read(new)
        if found is not None:
            text, self.stopped = text[: len(self._held) + found], True
        certain = len(text) if finished or self.stopped else len(text) - self._search.begun
        self._given.append(text[:certain])
        self._held = text[certain:]
        return self._given[-1]
