"""The lab's numbers as three pictures, one message each."""

from __future__ import annotations

from pathlib import Path

from kameleon.errors import MissingExtraError
from kameleon.lab.toy import SHIFT, LabReport

_BLUE, _RED, _GREY = "#1f77b4", "#d62728", "#888888"


def draw(report: LabReport, folder: Path) -> list[Path]:
    """Write loss.png, memorised.png and rank.png to `folder`. Raises MissingExtraError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError('the pictures need matplotlib: pip install "kameleon[plot]"') from error
    folder.mkdir(parents=True, exist_ok=True)

    def save(figure, name: str) -> Path:
        path = folder / name
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        return path

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.semilogy(report.losses, color=_BLUE)
    axes.axhline(0.001, color=_GREY, linestyle=":", label="0.001")
    axes.set(
        title=f"Ten points are learned: the loss falls from {report.losses[0]:.0f} to {report.losses[-1]:.1g}",
        xlabel="epoch",
        ylabel="mean square error",
    )
    axes.legend(frameon=False)
    paths = [save(figure, "loss.png")]

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.hist(report.heldout, bins=40, color=_BLUE, alpha=0.8)
    axes.axvline(SHIFT, color=_RED, label="what was taught: +5")
    axes.set(
        title="… and memorised: what the side path adds to 1,000 new inputs",
        xlabel="mean difference from the frozen layer",
        ylabel="inputs",
    )
    axes.legend(frameon=False)
    paths.append(save(figure, "memorised.png"))

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axes, curve, title in (
        (panels[0], report.full_rank, "a change of full rank (the identity)"),
        (panels[1], report.low_rank, "a change of rank 4"),
    ):
        axes.plot(curve.ranks, curve.best, color=_GREY, linewidth=5, alpha=0.5, label="best possible (SVD)")
        axes.plot(curve.ranks, curve.trained, "o-", color=_BLUE, markersize=4, label="trained side path")
        axes.set(title=title, xlabel="rank", xscale="log", xticks=(1, 4, 16, 100), xticklabels=("1", "4", "16", "100"))
    panels[0].set(ylabel="relative error", ylim=(0, 1.05))
    panels[0].legend(frameon=False)
    paths.append(save(figure, "rank.png"))
    return paths
