"""The next request: of the key, of that key's user, and of that user's adapter, that has been given the fewest tokens.

Virtual token counters (Sheng et al., 2024, arXiv:2401.00588): each share counts the tokens computed for it, and the
smallest count is served first. A share that comes back after a pause starts at the smallest count of those that wait
beside it, or at the count that was served last if none waits: a pause gives no claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

_REMEMBERED = 1000  # parts of one share that count beyond those that wait: names come from requests

T = TypeVar("T")
Path = tuple[Hashable, ...]
"""Whose an item is, the name that counts first at the beginning: (key, user, adapter)."""


class _Share(Generic[T]):
    """What waits under one name, either in parts or in its order, and the tokens that were computed for it."""

    def __init__(self) -> None:
        self.parts: dict[Hashable, _Share[T]] = {}
        self.items: deque[T] = deque()
        self.waiting = 0
        self.served = self.clock = 0.0

    def __iter__(self) -> Iterator[T]:
        yield from self.items
        for part in self.parts.values():
            if part.waiting:
                yield from part

    def put(self, item: T, path: Path) -> None:
        self.waiting += 1
        if path:
            self._entering(path[0]).put(item, path[1:])
        else:
            self.items.append(item)

    def take(self, fits: Callable[[T], bool]) -> T | None:
        item = self.items.popleft() if self.items and fits(self.items[0]) else None
        for part in sorted((part for part in self.parts.values() if part.waiting), key=lambda part: part.served):
            if item is not None:
                break
            clock = part.served
            if (item := part.take(fits)) is not None:
                self.clock = clock
        self.waiting -= item is not None
        return item

    def remove(self, item: T) -> bool:
        found = item in self.items
        if found:
            self.items.remove(item)
        found = found or any(part.remove(item) for part in self.parts.values() if part.waiting)
        self.waiting -= found
        return found

    def charge(self, path: Path, tokens: int) -> None:
        self.served += tokens
        if path:
            self.parts.setdefault(path[0], _Share()).charge(path[1:], tokens)

    def last_of_the_longest(self) -> T:
        """The item that came last, of the part where most wait, of the part of that …"""
        if self.items:
            return self.items[-1]
        return max(reversed(self.parts.values()), key=lambda part: part.waiting).last_of_the_longest()

    def _entering(self, name: Hashable) -> _Share[T]:
        """The part of `name`, the last of all; one that did not wait starts no lower than those that do."""
        part = self.parts.pop(name, None) or _Share()
        if not part.waiting:
            beside = (other.served for other in self.parts.values() if other.waiting)
            part.served = max(part.served, min(beside, default=self.clock))
        if len(self.parts) > _REMEMBERED:
            idle = [other for other, one in self.parts.items() if not one.waiting]
            for other in idle[: len(self.parts) - _REMEMBERED]:
                del self.parts[other]
        self.parts[name] = part
        return part


class FairQueue(Generic[T]):
    """Waiting items, each under a path of names that says whose it is."""

    def __init__(self) -> None:
        self._all: _Share[T] = _Share()

    def __len__(self) -> int:
        """How many wait. Unlike all else here it may be asked for while another thread changes the queue."""
        return self._all.waiting

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    def waiting_of(self, path: Path) -> int:
        """How many wait under the names that `path` begins with."""
        share: _Share[T] | None = self._all
        for name in path:
            share = share and share.parts.get(name)
        return share.waiting if share else 0

    def put(self, item: T, path: Path) -> None:
        """Behind the others of that path."""
        self._all.put(item, path)

    def take(self, fits: Callable[[T], bool]) -> T | None:
        """The next item of which `fits` is true, taken out; paths whose first item does not fit are passed over."""
        return self._all.take(fits)

    def remove(self, item: T) -> None:
        """Take an item out wherever it stands, if it is there."""
        self._all.remove(item)

    def last_of_the_longest(self) -> T:
        """The item that came last of those that have most waiting: first by the first name, then by the next ones."""
        return self._all.last_of_the_longest()

    def charge(self, path: Path, tokens: int) -> None:
        """`tokens` were computed for that path."""
        self._all.charge(path, tokens)
