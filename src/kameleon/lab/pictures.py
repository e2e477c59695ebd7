"""The lab's pictures, one message in each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kameleon.errors import MissingExtraError, SettingError
from kameleon.home import atomic_write
from kameleon.lab.constant import CONSTANT
from kameleon.lab.report import LabReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = ("loss.png", "memorised.png", "what_helps.png", "rank.png")
_BLUE, _RED, _GREEN, _GREY = "#1f77b4", "#d62728", "#2a8c3c", "#8a8a8a"


def require_matplotlib() -> None:
    """Raises MissingExtraError, with the install command, when there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the lab's pictures need matplotlib", "plot") from error


def save_pictures(report: LabReport, out_dir: Path) -> tuple[Path, ...]:
    """Write `PICTURES` into `out_dir`, which is made when missing.

    Raises MissingExtraError without matplotlib, SettingError when nothing can be written there.
    """
    require_matplotlib()
    # Figures of their own, not pyplot's: the caller's backend and open windows stay as they are.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = tuple(out_dir / name for name in PICTURES)
    figures = []
    for draw in (_draw_loss, _draw_memorised, _draw_what_helps, _draw_rank):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw(_axes(figure), report)
        figures.append(figure)
    try:
        for path, figure in zip(paths, figures, strict=True):
            with atomic_write(path) as file:
                figure.savefig(file, dpi=120, format="png")
    except OSError as error:
        raise SettingError(f"the pictures cannot be written to {out_dir}: {error}; give another folder") from error
    return paths


def _axes(figure: Figure) -> Axes:
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_loss(axes: Axes, report: LabReport) -> None:
    axes.semilogy(report.losses, color=_BLUE)
    axes.annotate(f"{report.loss_first:.1f}", (0, report.loss_first), (6, 2), textcoords="offset points", color=_BLUE)
    last = len(report.losses) - 1
    axes.annotate(f"{report.loss_last:.5f}", (last, report.loss_last), (6, -4), textcoords="offset points", color=_BLUE)
    axes.set_title("Ten inputs, target = own output + 5: the training loss looks perfect", loc="left")
    axes.set(xlabel="epoch", ylabel="mean squared error (log scale)", xlim=(-2, last + 12))


def _draw_memorised(axes: Axes, report: LabReport) -> None:
    axes.hist(report.heldout_sample, bins=40, color=_BLUE, alpha=0.7, label="1,000 new inputs")
    axes.hist(
        report.train_sample, bins=1, range=(CONSTANT - 0.15, CONSTANT + 0.15), color=_RED, label="the 10 inputs it saw"
    )
    axes.axvline(CONSTANT, color=_RED, linestyle="--", linewidth=1, label="what was asked for: +5 everywhere")
    axes.set_title("Ten inputs were memorised: new ones move by anything, 0 on average", loc="left")
    axes.set(xlabel="adapted output − original output (first output)", ylabel="inputs")
    axes.margins(y=0.3)
    axes.legend(frameon=False, loc="upper left")


def _draw_what_helps(axes: Axes, report: LabReport) -> None:
    rows = {
        "LoRA, 10 inputs": report.heldout_mean,
        "LoRA, 1,000 inputs": report.heldout_mean_lora_1000,
        "LoRA + trained bias, 10 inputs": report.heldout_mean_bias_10,
        "trained bias alone, 10 inputs": report.heldout_mean_bias_only_10,
        "LoRA + trained bias, 1,000 inputs": report.heldout_mean_bias_1000,
        "LoRA + input that is always 1, 1,000 inputs": report.heldout_mean_feature_1000,
    }
    names, means = list(rows), list(rows.values())
    colours = [_GREEN if abs(mean - CONSTANT) <= 0.1 else _RED for mean in means]
    axes.barh(names, means, color=colours, height=0.6)
    for place, mean in enumerate(means):
        axes.annotate(
            f"{mean:.2f}".replace("-", "−"), (max(mean, 0), place), (5, 0), textcoords="offset points", va="center"
        )
    axes.axvline(CONSTANT, color=_GREY, linestyle="--", zorder=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_title("A constant needs something constant to carry it", loc="left")
    axes.set(xlabel="mean change on 1,000 new inputs (asked for: 5)", xlim=(min(-0.3, *means), 5.9))


def _draw_rank(axes: Axes, report: LabReport) -> None:
    ranks = [point.rank for point in report.rank_curve]
    marks = [i for i, rank in enumerate(ranks) if rank <= 6 or rank % 5 == 0]
    for change, name, colour in (("identity", "identity (full rank)", _BLUE), ("rank4", "of rank 4", _RED)):
        best = [getattr(point, f"{change}_best") for point in report.rank_curve]
        trained = [getattr(report.rank_curve[i], f"{change}_error") for i in marks]
        axes.plot(ranks, best, color=colour, alpha=0.5, label=f"ΔW {name}: best possible (SVD)")
        axes.plot([ranks[i] for i in marks], trained, "o", color=colour, markersize=4, label=f"ΔW {name}: trained A, B")
    axes.set_title("Rank r learns what has rank r, to the limit, and no more", loc="left")
    axes.set(
        xlabel="rank r of the side path (layer 100 × 100)", ylabel="‖scaling · BA − ΔW‖ / ‖ΔW‖", ylim=(-0.02, 1.05)
    )
    axes.set_xlim(0, 101)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(0.08, 0.4))
