"""Tokens become text as soon as no later token can change it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class TextStream:
    """The text of one growing answer, and whether a stop string ended it.

    Only the newest tokens are decoded again, together with the few before them on which their text may depend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._fixed = ""  # text of the tokens before `_read`
        self._before, self._read = 0, 0  # tokens from `_before` on are decoded together, those before `_read` are known
        self._shown = 0  # characters already given out
        self.text = ""
        self.stopped = False

    def take(self, tokens: list[int], *, finished: bool) -> str:
        """The characters that became certain now; `tokens` are all of the answer so far."""
        searched = max(0, len(self._fixed) - max(map(len, self._stops), default=0))
        text = self._decode(tokens)
        found = min((at for stop in self._stops if (at := text.find(stop, searched)) >= 0), default=None)
        if found is not None:
            text, self.stopped = text[:found], True
        self.text = text
        certain = len(text) if finished or self.stopped else self._certain(text)
        new = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        return new

    def _decode(self, tokens: list[int]) -> str:
        known = str(self._tokenizer.decode(tokens[self._before : self._read], skip_special_tokens=True))
        longer = str(self._tokenizer.decode(tokens[self._before :], skip_special_tokens=True))
        text = self._fixed + longer[len(known) :]
        if len(longer) > len(known) and not longer.endswith("\N{REPLACEMENT CHARACTER}"):
            self._fixed, self._before, self._read = text, self._read, len(tokens)
        return text

    def _certain(self, text: str) -> int:
        """The length of `text` without an incomplete character or the beginning of a stop string at its end."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        end = len(text)
        for stop in self._stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while at >= 0 and not stop.startswith(text[at:]):
                at = text.find(stop[0], at + 1)
            if at >= 0:
                end = min(end, at)
        return end
