"""Ctrl-C and SIGTERM: the loop asks between steps whether they came, so that no step is interrupted."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Inside `with`, the first signal only sets `made`; a second one has its usual effect.

    Outside the main thread signals cannot be caught, and `made` stays false.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made:  # not before: another signal may wait already, and Python refuses one whose handler is gone
            self._restore()
            signal.raise_signal(number)
        self.made = True

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
