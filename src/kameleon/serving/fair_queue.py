"""Who is next: the user, and of that user the adapter, that has been given least.

Virtual token counters (Sheng et al., 2024, arXiv:2401.00588): each flow counts the tokens computed for it, the smallest
count is served first, and a flow that comes back after a pause starts at the smallest count there is, so that nobody
saves up a claim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flow(Generic[T]):
    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.served = 0.0


class FairQueue(Generic[T]):
    """Waiting items by user and adapter."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str | None, _Flow[T]]] = {}
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(len(flow.waiting) for flows in self._users.values() for flow in flows.values())

    def __iter__(self) -> Iterator[T]:
        return (item for flows in self._users.values() for flow in flows.values() for item in flow.waiting)

    def put(self, item: T, user: str, adapter: str | None) -> None:
        """Behind the others of this user and adapter."""
        waiting = [u for u in self._users if self._waits(u)]
        if user not in waiting and waiting:
            self._served[user] = max(self._served.get(user, 0.0), min(self._served[u] for u in waiting))
        flows = self._users.setdefault(user, {})
        self._served.setdefault(user, 0.0)
        flow = flows.setdefault(adapter, _Flow())
        if not flow.waiting:
            others = [f.served for f in flows.values() if f.waiting]
            flow.served = max(flow.served, min(others, default=flow.served))
        flow.waiting.append(item)

    def take(self, fits: Callable[[T], bool]) -> T | None:
        """The next item of which `fits` is true, taken out; flows whose first item does not fit are passed over."""
        for user in sorted((u for u in self._users if self._waits(u)), key=lambda u: self._served[u]):
            for flow in sorted((f for f in self._users[user].values() if f.waiting), key=lambda f: f.served):
                if fits(flow.waiting[0]):
                    return flow.waiting.popleft()
        return None

    def remove(self, item: T) -> None:
        """Take an item out wherever it stands, if it is there."""
        for flows in self._users.values():
            for flow in flows.values():
                if item in flow.waiting:
                    flow.waiting.remove(item)

    def charge(self, user: str, adapter: str | None, tokens: int) -> None:
        """`tokens` were computed for this user and adapter."""
        self._served[user] = self._served.get(user, 0.0) + tokens
        flow = self._users.setdefault(user, {}).setdefault(adapter, _Flow())
        flow.served += tokens

    def _waits(self, user: str) -> bool:
        return any(flow.waiting for flow in self._users[user].values())
