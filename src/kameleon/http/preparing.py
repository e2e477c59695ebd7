"""Threads in which requests become prompts: templates are rendered and texts tokenised, which may take seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

_MOST_OF_A_KEY = 2  # half of the processes in which templates run

_Result = TypeVar("_Result")


class Preparing:
    """Each key has threads of its own, so that its slow requests keep none of another key waiting."""

    def __init__(self) -> None:
        self._threads: dict[str, CapacityLimiter] = {}

    async def run(self, work: Callable[[], _Result], *, key: str) -> _Result:
        """The result of `work`, for the key of this name. Further work of the key waits, and may be cancelled then."""
        threads = self._threads.setdefault(key, CapacityLimiter(_MOST_OF_A_KEY))
        return await to_thread.run_sync(work, limiter=threads)
