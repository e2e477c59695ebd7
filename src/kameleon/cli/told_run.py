"""What `kameleon train` prints: the settings of the run, its progress and its result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kameleon.cli.console import in_one_line, megabytes, notes, progress, show, table
from kameleon.cli.settings import Setting, explain
from kameleon.settings import Recipe, Watch

if TYPE_CHECKING:
    from kameleon.adapters import Adapter
    from kameleon.api import LoadedBase
    from kameleon.data import Corpus
    from kameleon.plan import Plan
    from kameleon.training import RunResult, StepReport


def tell_settings(made: Plan, watch: Watch, *, given: Collection[str], parent: Adapter | None, verbose: bool) -> None:
    """Print the settings of a run that differ from the defaults; with `verbose` all of them, with their reasons.

    `given` are the settings that a person chose.
    """
    from kameleon.training import FIXED

    kept = () if parent is None else FIXED
    as_parent = "" if parent is None else f"as adapter {parent.name}, which it goes on from, has it"
    settled = (made.recipe, watch, made.chosen.execution)
    every = [setting for one in settled for setting in explain(one, type(one)())]
    if verbose:
        shown = table("setting", ">value", "why", title="settings")
        for setting in every:
            chosen = "you chose it" if setting.name in given else setting.reason
            shown.add_row(setting.name, str(setting.value), as_parent if setting.name in kept else chosen)
        notes.print(shown, soft_wrap=False)
        return
    groups = {  # the plan, which is printed too, has the settings of the execution
        "you chose": [one for one in every if one.name in given and one.name not in kept],
        as_parent: [one for one in every if one.name in kept and one.value is not None],
        "derived": [one for one in explain(made.recipe, Recipe()) if one.changed and one.name not in (*given, *kept)],
    }
    told = [f"{why}: {', '.join(map(_told, some))}" for why, some in groups.items() if some]
    notes.print(f"settings: {'; '.join((*told, 'all, with their reasons: --verbose'))}", highlight=False)


def _told(setting: Setting) -> str:
    value = setting.value
    return f"{setting.name} {f'{value:g}' if isinstance(value, float) else value}"


def tell_rows(corpus: Corpus, wanted_rows: int | None) -> None:
    """Print how many rows are learned, of how many."""
    doubts = "" if not corpus.doubts else f"; {len(corpus.doubts)} doubtful (see `kameleon data check`)"
    origin = corpus.origin
    rows = f"{origin.rows:,} rows"
    if wanted_rows is not None and origin.of_rows is not None:
        fewer = origin.of_rows < wanted_rows
        rows = f"all {rows}, fewer than {wanted_rows:,}" if fewer else f"{origin.rows:,} of {origin.of_rows:,} rows"
    notes.print(f"{rows}, {origin.trained_tokens:,} tokens to learn{doubts}", highlight=False)


def tell_system_prompt(before: Corpus, corpus: Corpus, parent: Adapter | None) -> None:
    """Print the system prompt that the adapter keeps, or why it keeps none. `before` is the corpus as in the file."""
    from kameleon.data import observe_system_prompt

    inherited = None if parent is None else parent.card.system_prompt
    given = sum(row is not own for row, own in zip(corpus.rows, before.rows, strict=True))
    if parent is not None and inherited is not None and given:
        notes.print(f"{given:,} rows have no system message: they get that of adapter {parent.name}", highlight=False)
    if corpus.system_prompt is not None:
        told = f"all rows share a system prompt, which the adapter keeps: {in_one_line(corpus.system_prompt)}"
        notes.print(told, highlight=False)
    elif (mixed := observe_system_prompt(corpus.rows)) is not None:
        notes.print(f"{mixed.text}; this one keeps none", style="yellow", highlight=False)
    if parent is not None and inherited is not None and corpus.system_prompt != inherited:
        told = f"the system prompt of adapter {parent.name} is not kept: {in_one_line(inherited)}"
        notes.print(told, style="yellow", highlight=False)


@contextmanager
def training_bar(name: str) -> Iterator[Callable[[StepReport], None]]:
    """A bar with loss, speed and the time left; yields the `on_step` of `LoadedBase.train` that moves it."""
    with progress() as bars:
        task = bars.add_task(f"training {name}", total=None)

        def on_step(report: StepReport) -> None:
            told = f"training {name}  loss {report.loss:.3f}  {report.tokens_per_s:,.0f} tokens/s"
            bars.update(task, total=report.total_steps, completed=report.step, description=told)

        yield on_step


def tell_result(loaded: LoadedBase, result: RunResult, *, folder: Path, curve: Path | None, as_json: bool) -> None:
    """Print the result of a run."""
    adapter, base = result.adapter, loaded.base
    path = loaded.shelf.path(adapter.name)
    size = sum(file.stat().st_size for file in path.iterdir())
    document = {
        "name": adapter.name,
        "path": str(path),
        "bytes": size,
        "parameters": adapter.parameters,
        "share": adapter.parameters / base.parameters,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "tokens_per_s": result.tokens / result.seconds if result.seconds else None,
        "first_loss": result.first_loss,
        "last_loss": result.last_loss,
        "eval_loss": result.best_loss,
        "best_step": result.best_step,
        "stopped_early": result.stopped_early,
        "peak_bytes": result.peak_bytes,
        "predicted": result.predicted,
        "system_prompt": adapter.card.system_prompt,
        "log": str(folder / "log.jsonl"),
        "curve": str(curve) if curve else None,
    }
    shown = table("", "", title=f"adapter {adapter.name}")
    shown.add_row("trained", f"{adapter.parameters:,} numbers, {adapter.parameters / base.parameters:.2%} of the base")
    shown.add_row("file", f"{megabytes(size)} in {path}")
    if result.first_loss is not None and result.last_loss is not None:
        told = f"{result.first_loss:.3f} at the first step, {result.last_loss:.3f} in the last tenth of the steps"
        shown.add_row("loss of learned rows", told)
    if result.best_loss is not None:
        told = f"{result.best_loss:.3f}, lowest at step {result.best_step} of {result.steps}: that adapter is kept"
    else:
        told = "not measured; the adapter is that of the last step"
    shown.add_row("loss of held-out rows", told)
    shown.add_row("time", f"{result.seconds / 60:.1f} min, {result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s")
    if result.predicted:
        shown.add_row("as planned", _compared(result))
    if adapter.card.system_prompt is not None:
        shown.add_row("system prompt of the adapter", in_one_line(adapter.card.system_prompt))
    shown.add_row("log, curve", f"{folder / 'log.jsonl'}, {curve or 'none'}")
    shown.add_row("use it", f"kameleon chat --adapter {adapter.name}")
    show(document, shown, as_json=as_json)


def _compared(result: RunResult) -> str:
    """One line that compares the plan with the run."""
    told = []
    for what, actual, unit, name in (
        ("memory", result.peak_bytes / 1e9, "GB", "peak_bytes"),
        ("time", result.seconds / 60, "min", "seconds"),
    ):
        predicted = result.predicted[name] / (1e9 if unit == "GB" else 60)
        told.append(f"{what} {actual:.2f} {unit}, predicted {predicted:.2f} ({predicted / max(actual, 1e-9) - 1:+.0%})")
    return "; ".join(told)
