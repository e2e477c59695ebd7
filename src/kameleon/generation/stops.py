"""Stop strings in a text that grows: each new character is read once (Knuth, Morris and Pratt, 1977)."""

from __future__ import annotations

from collections.abc import Sequence


class StopSearch:
    """Looks for several stop strings at once. None of them is empty."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [_Stop(stop) for stop in stops]

    def read(self, new: str) -> int | None:
        """Go on by the characters `new`. Returns where the first stop string that ends in them begins, counted from
        their beginning and so negative for one that began earlier; None if none ends there."""
        return min((at for stop in self._stops if (at := stop.read(new)) is not None), default=None)

    @property
    def begun(self) -> int:
        """How many characters at the end of the text may be the beginning of a stop string."""
        return max((stop.matched for stop in self._stops), default=0)


class _Stop:
    """One stop string, and how many of its first characters the text ends with now."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Of the first n characters, the longest beginning that is also their end, for as many n as have matched so far:
        # a long string costs nothing before it comes.
        self._borders = [0, 0]
        self.matched = 0

    def read(self, new: str) -> int | None:
        text, borders, matched = self._text, self._borders, self.matched
        for at, character in enumerate(new, 1):
            matched = _longer(text, borders, matched, character)
            if matched == len(text):
                return at - matched
            if matched == len(borders):
                borders.append(_longer(text, borders, borders[matched - 1], character))
        self.matched = matched
        return None


def _longer(text: str, borders: Sequence[int], matched: int, character: str) -> int:
    """How many first characters of `text` end what ended with `matched` of them, once `character` has followed."""
    while matched and text[matched] != character:
        matched = borders[matched]
    return matched + (text[matched] == character)
