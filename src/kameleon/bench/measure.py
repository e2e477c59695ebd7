"""Measure one case: contenders step in turn, each in its own process, so that all find the machine in one state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from kameleon.adapters import Adapter, Card
from kameleon.adapters.formats import write_adapter
from kameleon.bench.bases import base_path
from kameleon.bench.cases import Case, Rows
from kameleon.bench.contenders import CONTENDERS, KAMELEON, PEFT, PEFT_FP32, Contender, seat_together
from kameleon.bench.ours import recipe_of
from kameleon.bench.settings import BenchSettings
from kameleon.bench.turns import Job, Seat, Took
from kameleon.errors import ContenderError, SettingError
from kameleon.home import cache_dir
from kameleon.machine import available_memory_bytes
from kameleon.model import open_weights, read_config
from kameleon.scratch import scratch_folder
from kameleon.training.trainee import fresh_factors

_LOSS_BATCHES = 4  # batches of the comparison of losses, which come again and again, so that losses fall
_USED_SHARE = 0.9  # of the memory that is free now: other programs may want some meanwhile


@dataclass(frozen=True)
class Event:
    """A report of progress: what a contender has just begun or done, and how many of the case's steps are done."""

    case: str
    contender: str
    what: str
    seconds: float
    done: int
    total: int


@dataclass
class Measured:
    """The result of a case: timed steps by group and contender, losses, and why contenders stopped."""

    groups: list[dict[str, list[Took]]]
    losses: dict[str, list[float]]
    stopped: dict[str, str]


def measure_case(
    case: Case, contenders: Sequence[Contender], settings: BenchSettings, on_event: Callable[[Event], None]
) -> Measured:
    """Compare the losses of Kameleon and PEFT over some small steps, then time all contenders' steps in turn.

    In bf16 PEFT also takes these small steps in fp32, so that the distance of each side from fp32 is known. The first
    contender is Kameleon. Raises ContenderError when Kameleon's process ends (a case goes on without any other), and
    SettingError for rows that are too long for the base.
    """
    path = base_path(case.base)
    config = read_config(path, open_weights(path))
    if case.tokens > config.max_sequence_tokens:
        raise SettingError(
            f"case {case.name!r} needs {case.tokens} tokens; this base handles {config.max_sequence_tokens}"
        )
    dtype = settings.compute_type().dtype
    needs = {one.name: one.memory(case, config, dtype) for one in contenders}
    free = available_memory_bytes()
    groups = seat_together(contenders, needs, None if free is None else _USED_SHARE * free)
    compared = [KAMELEON, PEFT] if any(one.name == PEFT for one in contenders) else []
    total = sum(map(len, groups)) * (case.warm_up_steps + settings.steps) + len(compared) * settings.loss_steps
    wide = replace(CONTENDERS[PEFT], name=PEFT_FP32)
    fits = free is None or wide.memory(case, config, torch.float32).idle_bytes < _USED_SHARE * free
    has_wide = bool(compared and settings.loss_steps) and dtype != torch.float32 and fits
    total += has_wide * settings.loss_steps
    progress = _Progress(case.name, total, on_event)
    measured = Measured([], {}, {})
    with scratch_folder(cache_dir()) as folder:
        adapter = folder / "first"
        recipe = recipe_of(settings)
        write_adapter(Adapter("first", fresh_factors(config, recipe), Card(base_id=case.base)), adapter)
        job = Job(case, config.vocab_size, str(path), str(adapter), dtype, settings)
        if has_wide:
            with _Table([wide], replace(job, dtype=torch.float32), measured, progress) as table:
                table.load()
                measured.losses[PEFT_FP32] = table.small_losses(PEFT_FP32)
        for group in groups:
            with _Table(group, job, measured, progress) as table:
                table.load()
                for name in compared:
                    if name in table.names and name not in measured.losses:
                        measured.losses[name] = table.small_losses(name)
                measured.groups.append(table.time_steps())
    return measured


class _Progress:
    """Counts steps and reports them."""

    def __init__(self, case: str, total: int, on_event: Callable[[Event], None]) -> None:
        self._case, self._total, self._on_event, self._done = case, total, on_event, 0

    def starts(self, contender: str, what: str) -> None:
        self._on_event(Event(self._case, contender, what, 0.0, self._done, self._total))

    def ended(self, contender: str, what: str, seconds: float) -> None:
        self._done += 1
        self._on_event(Event(self._case, contender, what, seconds, self._done, self._total))


class _Table:
    """Contenders that are in memory together. One that stops is left out, and `measured` says why."""

    def __init__(self, group: Sequence[Contender], job: Job, measured: Measured, progress: _Progress) -> None:
        self.names = [one.name for one in group]
        self._job, self._measured, self._progress = job, measured, progress
        self._group, self._seats = group, dict[str, Seat]()

    def __enter__(self) -> _Table:
        return self

    def load(self) -> None:
        """Start all, one after the other."""
        for one in self._group:
            self._progress.starts(one.name, "loading")
            try:
                self._seats[one.name] = Seat(one.run, self._job)
            except ContenderError as error:
                self._leave(one.name, error)

    def __exit__(self, *error: object) -> None:
        for seat in self._seats.values():
            seat.end()

    def small_losses(self, name: str) -> list[float]:
        """Losses over small steps. All begin with the same adapter, so losses differ by rounding only."""
        settings = self._job.settings
        shortest = max(2, settings.loss_tokens // 2)
        small = replace(self._job.case, rows=settings.loss_rows, tokens=settings.loss_tokens, shortest_tokens=shortest)
        batches = [small.batch(step % _LOSS_BATCHES, self._job.vocab_size) for step in range(settings.loss_steps)]
        took = [self._turn(name, rows, f"loss {step + 1}") for step, rows in enumerate(batches)]
        return [one.loss for one in took if one]

    def time_steps(self) -> dict[str, list[Took]]:
        """The timed steps of all, after untimed ones."""
        case = self._job.case
        timed: dict[str, list[Took]] = {name: [] for name in self.names}
        for step in range(-case.warm_up_steps, self._job.settings.steps):
            rows = case.batch(step + case.warm_up_steps, self._job.vocab_size)
            for name in self.names:
                took = self._turn(name, rows, f"step {step + 1}" if step >= 0 else "warm-up")
                if took and step >= 0:
                    timed[name].append(took)
        return timed

    def _turn(self, name: str, rows: Rows, what: str) -> Took | None:
        if name in self._measured.stopped:
            return None
        self._progress.starts(name, what)
        try:
            took = self._seats[name].step(rows)
        except ContenderError as error:
            self._leave(name, error)
            return None
        self._progress.ended(name, what, took.seconds)
        return took

    def _leave(self, name: str, error: ContenderError) -> None:
        if name == KAMELEON:
            raise ContenderError(f"kameleon stopped: {error}; its own message stands above") from error
        self._measured.stopped[name] = str(error)
