"""Chat templates run in processes of their own, which may take only so much time and memory for one rendering."""

from __future__ import annotations

import atexit
import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import LifoQueue
from typing import Any

import jinja2

from kameleon.errors import DataError, TemplateLimitError

_CPU_S = 5  # a usual row takes half a thousandth of a second
_MEMORY_BYTES = 1 << 30
_MOST_CHARACTERS = 1 << 26  # far more than a request may have
_PROCESSES = 4  # so that one long rendering keeps no other client of a server waiting


def render(source: str, values: Mapping[str, Any], *, date: datetime.date | str | None) -> str:
    """What a template makes of its values, which JSON must be able to hold. `date` None is today, and a text
    stands for the date in every form.

    Raises DataError if the template refuses them, and TemplateLimitError if it takes too much time or memory.
    """
    process = _free.get()
    try:
        answer = process.ask(source, values, date)
    except (TypeError, ValueError, RecursionError) as error:  # of values that are not JSON
        raise DataError(f"the base's chat template cannot be given these messages: {error}") from error
    finally:
        _free.put(process)
    if "refusal" in answer:
        raise DataError(f"the base's chat template refuses these messages: {answer['refusal']}")
    if "limit" in answer:
        raise TemplateLimitError(f"the base's chat template {answer['limit']} for one conversation, so it is stopped")
    return answer["text"]


class _Process:
    """One process, which starts when it is first asked and again after it was ended."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._known: dict[str, int] = {}  # templates that it has compiled, with their numbers

    def ask(self, source: str, values: Mapping[str, Any], date: datetime.date | str | None) -> dict[str, str]:
        request: dict[str, Any] = {"values": values, "date": _fields(date) if isinstance(date, datetime.date) else date}
        running = self._start() if self._running is None else self._running
        if source not in self._known:
            request["source"] = source
        line = json.dumps({**request, "template": self._known.get(source, len(self._known))}, default=_placeholder)
        self._known.setdefault(source, len(self._known))
        assert running.stdin is not None and running.stdout is not None
        try:
            running.stdin.write(line.encode() + b"\n")
            running.stdin.flush()
            answer = running.stdout.readline(_MOST_CHARACTERS * 12 + 100)  # 12 bytes write one character at most
            told = json.loads(answer) if answer.endswith(b"\n") else None
        except BrokenPipeError:
            told = None
        except BaseException:  # Ctrl-C: the answer that is still to come would be taken for the next request's
            self.end()
            raise
        return told or {"limit": self.end()}

    def _start(self) -> subprocess.Popen[bytes]:
        program, library = Path(__file__).with_name("sandbox.py"), Path(jinja2.__file__).parents[1]
        limits = (_CPU_S, _MEMORY_BYTES, _MOST_CHARACTERS)
        words = [sys.executable, "-I", str(program), str(library), *map(str, limits)]
        # A group of its own: Ctrl-C is for this process, which says when the other one ends.
        group = None if sys.platform == "win32" else 0
        self._running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=group)
        return self._running

    def end(self) -> str:
        """End the process; returns why it had ended already, as words behind "the template"."""
        running, self._running = self._running, None
        self._known.clear()
        if running is None:
            return ""
        running.kill()
        running.communicate()
        too_long = sys.platform != "win32" and running.returncode == -signal.SIGXCPU
        return f"takes more than {_CPU_S} s" if too_long else f"ends its process (status {running.returncode})"

    def forget(self) -> None:
        """Leave the process to the parent of this one."""
        if self._running is not None:
            self._running.returncode = 0  # else Python would wait for it
        self._running = None
        self._known.clear()


def _fields(date: datetime.date) -> tuple[int, int, int]:
    return date.year, date.month, date.day


def _placeholder(value: Any) -> str:
    """What a template sees of an image and the like: templates only ask whether it is there."""
    return f"<{type(value).__name__}>"


_processes = [_Process() for _ in range(_PROCESSES)]
_free: LifoQueue[_Process] = LifoQueue()  # the last one first, so that a program with one thread starts one process


for _one in _processes:
    _free.put(_one)


def _after_fork() -> None:
    global _free
    _free = LifoQueue()  # a thread that is not in the child may hold the lock of the former
    for process in _processes:
        process.forget()
        _free.put(process)


def _end_all() -> None:
    for process in _processes:
        process.end()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
