"""Reports of a run: the forecast, the report of a step, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from kameleon.adapters import Adapter
from kameleon.notebook import html_table, svg_curves


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
    losses: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """Each step with the loss of its rows, in nats per token."""
    looks: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """The steps of the looks, each with the loss of the held-out rows."""

    def __repr__(self) -> str:
        return f"RunResult({self.adapter!r},\n  {'; '.join(f'{what} {told}' for what, told in self._told())})"

    def _repr_html_(self) -> str:
        curves = {"loss of each step": self.losses, "held-out rows": self.looks}
        title = f"adapter {self.adapter.name}"
        return html_table(("", ""), self._told(), title=title) + svg_curves(curves, x="step", y="nats per token")

    def _told(self) -> list[tuple[str, str]]:
        """The figures in words."""
        told = [("steps", f"{self.steps:,}"), ("tokens", f"{self.tokens:,}"), ("time", f"{self.seconds / 60:.1f} min")]
        told.append(("memory", f"{self.peak_bytes / 1e9:.2f} GB"))
        if self.first_loss is not None and self.last_loss is not None:
            told.append(("loss of learned rows", f"{self.first_loss:.3f} → {self.last_loss:.3f}"))
        if self.best_loss is not None:
            told.append(("loss of held-out rows", f"{self.best_loss:.3f} at step {self.best_step}"))
        return told
