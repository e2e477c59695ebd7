"""Faults that come again and again write one line a second in the log, with their number."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_SPAN_S = 1.0
_MOST_KINDS = 1000


class OncePerSecond(logging.Filter):
    """Lets a warning or an error through once a second; the next one that passes tells how many were left out.

    Records with the same logger and the same unformatted message are of one kind. Information passes always.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # when one passed, and how many came since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind, now = (record.name, str(record.msg)), self._clock()
        passed, left_out = self._kinds.get(kind, (-_SPAN_S, 0))
        if now - passed < _SPAN_S:
            self._kinds[kind] = passed, left_out + 1
            return False
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = now, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out:,} more like this left out)", ()
        return True
