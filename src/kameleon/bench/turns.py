"""Contenders in their own processes, which step one at a time on request."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from kameleon.bench.cases import Case, Rows
from kameleon.bench.settings import BenchSettings
from kameleon.errors import ContenderError
from kameleon.machine import peak_bytes

_END_S = 3.0


@dataclass(frozen=True)
class Job:
    """The input of a contender: the case, the paths of the base and of the first adapter, the type, the settings."""

    case: Case
    vocab_size: int
    base: str
    adapter: str
    dtype: torch.dtype
    settings: BenchSettings


class Took(NamedTuple):
    """One step: its time, its loss, its trained tokens without padding, and the peak memory so far."""

    seconds: float
    loss: float
    tokens: int
    peak_bytes: int


class Turns:
    """A contender's side: wait for a turn, step, report. The clock runs from the turn to the report."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._is_ready = False
        self._started = 0.0
        self._rows: Rows = []

    def next(self) -> Rows | None:
        """Wait for this contender's turn. Returns the rows to train, or None at the end."""
        if not self._is_ready:
            self._pipe.send(None)  # prepared: time until here belongs to no step
            self._is_ready = True
        rows: Rows | None = self._pipe.recv()
        if rows is not None:
            self._rows = rows
            self._started = time.perf_counter()
        return rows

    def done(self, loss: float, tokens: int | None = None) -> None:
        """Stop the clock. `tokens` says how many were trained by a contender that chooses its rows itself."""
        seconds = time.perf_counter() - self._started
        trained = sum(map(len, self._rows)) if tokens is None else tokens
        self._pipe.send(Took(seconds, loss, trained, peak_bytes()))


Run = Callable[[Job, Turns], None]
"""A contender: prepare, then make a step in each turn, until there are no more turns."""


def _serve(run: Run, job: Job, pipe: Connection) -> None:
    os.dup2(2, 1)  # libraries' prints must not get into the result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends this one
    warnings.simplefilter("ignore", FutureWarning)  # meant for libraries' developers
    torch.set_num_threads(job.settings.used_threads)
    run(job, Turns(pipe))


class Seat:
    """The parent's side of one contender."""

    def __init__(self, run: Run, job: Job) -> None:
        """Start the process and wait until it is prepared: loading takes more memory than a step, so one loads at once.

        Raises ContenderError when the process ends before that.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(run, job, other), daemon=True)
        with _environment(TQDM_DISABLE="1"):  # libraries' own bars would break the one that shows the turns
            self._process.start()
        self._longest_turn_s = job.settings.longest_turn_s
        other.close()  # so that the end of the process is the end of the pipe
        self._receive()

    def step(self, rows: Rows) -> Took:
        """Let the contender train these rows. Raises ContenderError; a contender that takes too long is killed."""
        with suppress(OSError):  # the process has ended; `_receive` says so
            self._pipe.send(rows)
        return self._receive(self._longest_turn_s)

    def _receive(self, longest_s: float | None = None) -> Any:
        try:
            if not self._pipe.poll(longest_s):
                self._process.kill()  # it would go on computing in the others' turns
                raise ContenderError(f"a step took more than {longest_s} s")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_END_S)
            raise ContenderError(f"its process ended with status {self._process.exitcode}") from error

    def end(self) -> None:
        """End the process, and wait until its memory is free."""
        with suppress(OSError):  # it may have ended already
            self._pipe.send(None)
        self._process.join(_END_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
