"""Tokens become text as soon as no later token can change it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from kameleon.text import TokenBytes


class TextStream:
    """The text of one growing answer, and whether a stop string ended it.

    It continues the prompt: a first word keeps the space before it. Bytes that are no UTF-8 become replacement
    characters, those at the end only when the answer is over.
    """

    def __init__(self, token_bytes: TokenBytes, stops: Sequence[str]) -> None:
        self._token_bytes, self._stops = token_bytes, stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0  # tokens whose bytes went into the decoder
        self._shown = 0  # characters already given out
        self.text = ""
        self.stopped = False

    def take(self, tokens: list[int], *, finished: bool) -> str:
        """The characters that became certain now; `tokens` are all of the answer so far."""
        searched = max(0, len(self.text) - max(map(len, self._stops), default=0))
        new = b"".join(map(self._token_bytes.said, tokens[self._read :]))
        self._read = len(tokens)
        self.text += self._decoder.decode(new, final=finished)
        found = min((at for stop in self._stops if (at := self.text.find(stop, searched)) >= 0), default=None)
        if found is not None:
            self.text, self.stopped = self.text[:found], True
        certain = len(self.text) if finished or self.stopped else self._certain()
        shown, self._shown = self._shown, max(self._shown, certain)
        return self.text[shown:certain]

    def _certain(self) -> int:
        """The length of the text without the beginning of a stop string at its end."""
        text = self.text
        end = len(text)
        for stop in self._stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while at >= 0 and not stop.startswith(text[at:]):
                at = text.find(stop[0], at + 1)
            if at >= 0:
                end = min(end, at)
        return end
