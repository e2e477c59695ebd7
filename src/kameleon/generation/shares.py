"""How clients share what all of them need: places in the batch, and the chunk of prompts of a step.

An owner is a path of names, the name that counts first at the beginning: (key, user). Owners share equally on each
level: a key gets no more because it names many users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

Owner = tuple[Hashable, ...]


class Owned(Protocol):
    """Something that has an owner."""

    @property
    def owner(self) -> Owner: ...


One = TypeVar("One", bound=Owned)


def gives_way(other: Owner, owner: Owner, theirs: Callable[[Owner], int], mine: Callable[[Owner], int]) -> bool:
    """Whether `other` still has as much as `owner` when it gives one to it, on the first level where the two differ."""
    for one, another in zip(_levels(owner), _levels(other), strict=True):
        if one != another:
            return theirs(another) > mine(one) + 1
    return False


class Tally(Generic[One]):
    """How many run of each owner; `waiting` ones count only where their owner asks for one more."""

    def __init__(self, running: Sequence[One], waiting: Iterable[One] = ()) -> None:
        self._running, self._counts = running, _counts(running)
        self._wanted = self._counts + _counts(waiting)
        self._last: One | None = None

    def first_of_least(self, waiting: Iterable[One]) -> One:
        """The first of those that wait: of the key that runs least, of its user that runs least."""
        return min(waiting, key=self._rank)

    def last_of_most(self) -> One:
        """The last of those that run: of the key that runs most, of its user that runs most."""
        if self._last is None:
            self._last = max(reversed(self._running), key=self._rank)
        return self._last

    def gives_way_to(self, owner: Owner) -> One | None:
        """The running one that makes room for one more of `owner`; None if nobody runs more than `owner` would.

        The last running one of an owner gives way to nobody, so that it ends.
        """
        if not self._running:
            return None
        last = self.last_of_most()
        return last if gives_way(last.owner, owner, self._counts.__getitem__, self._wanted.__getitem__) else None

    def _rank(self, one: One) -> list[int]:
        return [self._counts[level] for level in _levels(one.owner)]


def _levels(owner: Owner) -> list[Owner]:
    """The owner on each level: its key, then its user of that key."""
    return [tuple(owner[:depth]) for depth in range(1, len(owner) + 1)]


def _counts(owned: Iterable[Owned]) -> Counter[Owner]:
    return Counter(level for one in owned for level in _levels(one.owner))


def split(amount: int, wants: Sequence[tuple[One, int]], depth: int = 0) -> list[tuple[One, int]]:
    """How much of `amount` each one gets of what it wants: owners have equal shares, what one leaves goes to the
    others, and those of one owner are served in their order."""
    owners = list(dict.fromkeys(one.owner[: depth + 1] for one, _ in wants))
    if len(owners) == 1 and depth >= len(wants[0][0].owner):
        return _in_order(amount, wants)
    parts = [[(one, wish) for one, wish in wants if one.owner[: depth + 1] == owner] for owner in owners]
    given: list[tuple[One, int]] = []
    for left, part in zip(
        range(len(parts), 0, -1), sorted(parts, key=lambda part: sum(wish for _, wish in part)), strict=True
    ):
        mine = split(-(-amount // left), part, depth + 1)
        amount -= sum(tokens for _, tokens in mine)
        given += mine
    return given


def _in_order(amount: int, wants: Sequence[tuple[One, int]]) -> list[tuple[One, int]]:
    given: list[tuple[One, int]] = []
    for one, wish in wants:
        given.append((one, min(wish, amount)))
        amount -= given[-1][1]
    return given
