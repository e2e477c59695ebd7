"""Contenders in processes of their own, which step one at a time, when they are asked to."""

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
    """What a contender gets: the case, the base's and the first adapter's folder, the type, the settings."""

    case: Case
    vocab_size: int
    base: str
    adapter: str
    dtype: torch.dtype
    settings: BenchSettings


class Took(NamedTuple):
    """One step: its time, its loss, the real tokens that it trained, and the most memory held so far."""

    seconds: float
    loss: float
    tokens: int
    peak_bytes: int


class Turns:
    """A contender's side: wait for a turn, step, say that it is done. The clock runs from one to the other."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._is_ready = False
        self._started = 0.0
        self._rows: Rows = []

    def next(self) -> Rows | None:
        """Wait until it is this contender's turn; the rows to train, or None when there is nothing more to do."""
        if not self._is_ready:
            self._pipe.send(None)  # prepared: the time until here belongs to no step
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
"""A contender: prepare, then step whenever it is its turn, until there is none."""


def _serve(run: Run, job: Job, pipe: Connection) -> None:
    os.dup2(2, 1)  # whatever a library prints must not get into the result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends this one
    warnings.simplefilter("ignore", FutureWarning)  # libraries to their developers; the watcher wants to see the turns
    torch.set_num_threads(job.settings.used_threads)
    run(job, Turns(pipe))


class Seat:
    """The parent's side of one contender."""

    def __init__(self, run: Run, job: Job) -> None:
        """Start it, and wait until it is prepared: loading takes more memory than stepping, so one loads at a time.

        Raises ContenderError when it ends before.
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
        """Have it train these rows. Raises ContenderError, also when it takes too long; it is ended then."""
        with suppress(OSError):  # it has ended; receiving says so
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
        """Tell it that there is nothing more to do, and wait for its memory to be free again."""
        with suppress(OSError):  # it may have ended already
            self._pipe.send(None)
        self._process.join(_END_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for the processes that are started inside the block."""
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
