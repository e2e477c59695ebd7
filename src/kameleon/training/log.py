"""The log of a run, one JSON object a line, and the loss curve that is drawn from it."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from kameleon.errors import CheckpointError, MissingExtraError
from kameleon.home import atomic_write

LOG_FILE = "log.jsonl"
_MOST_STEPS_IN_MEAN = 20
"""Of the curve's running mean; it is a fifth of a short run, so that it shows how the loss falls."""


class RunLog:
    """Appends to `folder/log.jsonl`. It first drops lines behind step `step`, which were written later than the last
    checkpoint."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [record for record in read_log(folder) if record["step"] <= step]
            with atomic_write(self.path) as file:
                file.writelines(_line(record).encode() for record in kept)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, record: dict[str, Any]) -> None:
        """Add a line. Raises CheckpointError when it cannot be written."""
        try:
            self._file.write(_line(record))
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write the run's log {self.path} (its last checkpoint is intact): {error}")

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # `write` has raised for a line that is still in the buffer
            self._file.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log, without a last line that a crash has cut."""
    path = folder / LOG_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def first_and_last_loss(folder: Path) -> tuple[float, float] | tuple[None, None]:
    """The loss of a run's first step and the mean over its last tenth, in nats per token; None without steps."""
    losses = [record["loss"] for record in read_log(folder) if "loss" in record]
    last = losses[-math.ceil(len(losses) / 10) :]
    return (losses[0], sum(last) / len(last)) if losses else (None, None)


def points(folder: Path, what: str) -> tuple[tuple[int, float], ...]:
    """Each step of a run's log that has this value ("loss", "eval_loss"), with the value."""
    return tuple((record["step"], record[what]) for record in read_log(folder) if what in record)


def draw_loss_curve(folder: Path, name: str) -> Path:
    """Training loss, its running mean and the held-out loss over the steps, as `folder/loss.png`.

    Raises MissingExtraError without matplotlib, OSError when it cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError("the loss curve needs matplotlib", "plot") from error
    records = read_log(folder)
    steps = [r["step"] for r in records if "loss" in r]
    losses = [r["loss"] for r in records if "loss" in r]
    looks = [(r["step"], r["eval_loss"]) for r in records if "eval_loss" in r]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, losses, color="#bbbbbb", linewidth=0.8, label="each step")
    width = min(_MOST_STEPS_IN_MEAN, len(losses) // 5)
    if width > 1:
        axes.plot(steps, _running_mean(losses, width), color="#1f77b4", label=f"mean of {width} steps")
    if looks:
        axes.plot(*zip(*looks, strict=True), "o-", color="#d62728", markersize=4, label="held-out rows")
    axes.set(title=f"{name}: loss while training", xlabel="step", ylabel="nats per trained token", ylim=(0, None))
    axes.legend(frameon=False)
    path = folder / "loss.png"
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120, format="png")
    pyplot.close(figure)
    return path


def _running_mean(values: list[float], width: int) -> list[float]:
    windows = (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
