"""The next request: of the user, and of that user's adapter, that has been given the fewest tokens.

Virtual token counters (Sheng et al., 2024, arXiv:2401.00588): each flow counts the tokens computed for it, the smallest
count is served first. A flow that comes back after a pause starts at the smallest count of the waiting flows, or at the
count that was served last if none waits: a pause gives no claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

_REMEMBERED = 1000  # users, and adapters of a user, that count beyond those that wait: names come from requests

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Share = TypeVar("Share", "_Flow", "_User")


class _Flow(Generic[T]):
    """One user's requests for one adapter."""

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.served = 0.0


class _User(Generic[T]):
    def __init__(self) -> None:
        self.flows: dict[str | None, _Flow[T]] = {}
        self.waiting = 0
        self.served = self.clock = 0.0


class FairQueue(Generic[T]):
    """Waiting items by user and adapter."""

    def __init__(self) -> None:
        self._users: dict[Hashable, _User[T]] = {}
        self._clock = 0.0
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait. Unlike all else here it may be asked for while another thread changes the queue."""
        return self._waiting

    def __iter__(self) -> Iterator[T]:
        flows = (flow for user in self._users.values() if user.waiting for flow in user.flows.values())
        return (item for flow in flows for item in flow.waiting)

    def put(self, item: T, user: Hashable, adapter: str | None) -> None:
        """Behind the others of this user and adapter."""
        whose = _entering(self._users, user, _User, self._clock)
        _entering(whose.flows, adapter, _Flow, whose.clock).waiting.append(item)
        whose.waiting += 1
        self._waiting += 1

    def take(self, fits: Callable[[T], bool]) -> T | None:
        """The next item of which `fits` is true, taken out; flows whose first item does not fit are passed over."""
        for user in _in_turn(self._users.values()):
            for flow in _in_turn(user.flows.values()):
                if fits(flow.waiting[0]):
                    self._clock, user.clock = user.served, flow.served
                    user.waiting -= 1
                    self._waiting -= 1
                    return flow.waiting.popleft()
        return None

    def remove(self, item: T) -> None:
        """Take an item out wherever it stands, if it is there."""
        for user in self._users.values():
            for flow in user.flows.values():
                if item in flow.waiting:
                    flow.waiting.remove(item)
                    user.waiting -= 1
                    self._waiting -= 1

    def charge(self, user: Hashable, adapter: str | None, tokens: int) -> None:
        """`tokens` were computed for this user and adapter."""
        whose = self._users.setdefault(user, _User())
        whose.served += tokens
        whose.flows.setdefault(adapter, _Flow()).served += tokens


def _in_turn(shares: Iterable[Share]) -> list[Share]:
    return sorted((share for share in shares if share.waiting), key=lambda share: share.served)


def _entering(shares: dict[K, Share], name: K, new: Callable[[], Share], clock: float) -> Share:
    """The share of `name`, the last of all; one that did not wait starts no lower than those that do."""
    share = shares.pop(name, None) or new()
    if not share.waiting:
        share.served = max(share.served, min((s.served for s in shares.values() if s.waiting), default=clock))
    idle = [other for other, s in shares.items() if not s.waiting] if len(shares) > _REMEMBERED else []
    for other in idle[: len(shares) - _REMEMBERED]:
        del shares[other]
    shares[name] = share
    return share
