"""Tokens become text as soon as no later token can change it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class TextStream:
    """The text of one growing answer: what of it is certain, and whether a stop string ended it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._shown = 0  # characters already given out
        self.text = ""
        self.stopped = False

    def take(self, tokens: list[int], finished: bool) -> str:
        """`tokens` are all of the answer so far; returns the characters that became certain now."""
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            text, self.stopped = text[:found], True
        self.text = text
        certain = len(text) if finished or self.stopped else self._certain(text)
        new = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        return new

    def _certain(self, text: str) -> int:
        """All but half a character or half a stop string that waits at the end."""
        end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        for stop in self._stops:
            for length in range(len(stop) - 1, 0, -1):
                if text.endswith(stop[:length]):
                    end = min(end, len(text) - length)
        return end
