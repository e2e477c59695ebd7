"""Reports of a run: the forecast, the report of a step, and the result."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.adapters import Adapter


@dataclass(frozen=True)
class Forecast:
    """A plan's figures of a run: its peak memory, and the seconds of a step, looks included."""

    peak_bytes: int
    seconds_per_step: float


@dataclass(frozen=True)
class StepReport:
    """Figures for a person who watches the run, after a step."""

    step: int
    total_steps: int
    loss: float
    eval_loss: float | None
    tokens_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class RunResult:
    """The trained adapter, and the run's time and memory.

    The adapter is that of the best look; without held-out rows (`best_loss` None) it is that of the last step.
    """

    adapter: Adapter
    steps: int
    tokens: int
    seconds: float
    best_loss: float | None
    best_step: int
    stopped_early: bool
    peak_bytes: int
    first_loss: float | None
    last_loss: float | None
    """Of learned rows, in nats per token: before the first step, and the mean over the last tenth of the steps. They
    show that a run without held-out rows learned."""
    predicted: dict[str, float]
    """The plan's `peak_bytes` and `seconds` for the steps that were made; {} without a plan."""
