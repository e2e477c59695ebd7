"""kameleon train: one adapter from rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kameleon.cli.console import (
    Compute,
    Json,
    MemoryBudget,
    Quantize,
    Raw,
    in_one_line,
    megabytes,
    notes,
    open_base,
    progress,
    show,
    table,
)
from kameleon.cli.plan import tell_plan
from kameleon.cli.settings import explain
from kameleon.errors import MissingExtraError, SettingError
from kameleon.home import runs_dir
from kameleon.settings import Execution, Recipe, Watch, parse_bytes
from kameleon.terminal import printable

if TYPE_CHECKING:
    from kameleon.adapters import Adapter
    from kameleon.api import LoadedBase
    from kameleon.data import Corpus
    from kameleon.plan import Plan
    from kameleon.training import RunResult, StepReport


def train(
    *,
    data: Annotated[str, Parameter(help="Rows to learn from: JSONL, JSON, CSV, Parquet, or a hub data set.")],
    name: Annotated[str, Parameter(help="The adapter's name on the shelf.")],
    base: Annotated[
        str | None,
        Parameter(
            help="The frozen base: smollm2 or gemma3-270m, a folder, a .gguf file, or a hub id owner/name; by default "
            "smollm2, with --from that of the adapter."
        ),
    ] = None,
    from_adapter: Annotated[
        str | None,
        Parameter(
            name="--from",
            help="Go on from this adapter of the shelf, with its rank, alpha, targets, layers and variant. Under the "
            "same --name it gets a new version.",
        ),
    ] = None,
    quantize: Quantize = None,
    compute: Compute = None,
    memory: MemoryBudget = None,
    held_out: Annotated[
        str | None,
        Parameter(
            help="Rows that are not learned, to watch the run with. By default a twentieth of the data, and none below "
            "320 rows."
        ),
    ] = None,
    recipe: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008 (frozen)
    watch: Annotated[Watch, Parameter(name="*")] = Watch(),  # noqa: B008 (frozen)
    execution: Annotated[Execution, Parameter(name="*")] = Execution(),  # noqa: B008 (frozen)
    raw: Raw = False,
    resume: Annotated[
        bool, Parameter(help="Go on with an interrupted run; the adapter is the same, bit for bit.")
    ] = False,
    overwrite: Annotated[bool, Parameter(help="Replace an adapter or an unfinished run of that name.")] = False,
    config: Annotated[
        Path | None, Parameter(help="Settings from the [train] table of a TOML file; flags win (--raw=false).")
    ] = None,
    json: Json = False,
) -> None:
    """Train a LoRA adapter on the frozen base and put it on the shelf.

    Ctrl-C saves; the same command with --resume goes on. Look at the data first with `kameleon data check`.

    Try: kameleon train --data law.jsonl --name law; or kameleon train --config law.toml --epochs 2;
    or, with more rows later: kameleon train --data more.jsonl --from law --name law
    """
    from kameleon.adapters import Shelf
    from kameleon.data import find_data
    from kameleon.ops import COMPUTE_TYPES
    from kameleon.training import draw_loss_curve, find_parent, require_free, resumed_compute
    from kameleon.unloaded import plan, read, resumed

    for source in (data, held_out):
        if source is not None:
            find_data(source)  # before a base is fetched: a missing file and a taken name are errors at once
    parent = None if from_adapter is None else find_parent(from_adapter, Shelf(), run=name, resume=resume)
    if resume:
        compute = resumed_compute(runs_dir() / name, compute)
    elif not overwrite:
        require_free(name, Shelf(), parent)
    if base is None:
        base, quantize = _base_of(parent, quantize)
    corpus: Corpus | None = None
    watched: str | Corpus | None = held_out
    planned = None
    if memory is not None:  # planned before the base is loaded, so that the promise of `kameleon plan` holds
        budget = parse_bytes(memory)
        corpus = read(base, data, raw=raw, max_row_tokens=recipe.max_row_tokens, rows=recipe.rows, seed=recipe.seed)
        watched = None if held_out is None else read(base, held_out, raw=raw, max_row_tokens=recipe.max_row_tokens)
        kept = resumed(name, watch, execution) if resume else (watch, execution)
        dtype = compute and COMPUTE_TYPES[compute]
        planned = plan(
            base,
            corpus,
            recipe=recipe,
            watch=kept[0],
            execution=kept[1],
            memory_bytes=budget,
            quantize=quantize,
            raw=raw,
            held_out=watched,
            dtype=dtype,
            keep_passes=resume,
            parent=parent,
        )
        quantize = "nf4" if planned.chosen.quantize else None
    loaded = open_base(base, quantize, compute=compute)
    read_rows = corpus or loaded.read(
        data, raw=raw, max_row_tokens=recipe.max_row_tokens, rows=recipe.rows, seed=recipe.seed
    )
    rows = read_rows
    if parent is not None:
        rows = rows.with_system_prompt(loaded.base.template, parent.card.system_prompt)

    def tell(made: Plan) -> None:
        _tell_settings(made, rows, (recipe, watch, execution), parent)
        _tell_system_prompt(read_rows, rows, parent)
        tell_plan(made)

    with training_bar(name) as on_step:
        result = loaded.train(
            rows,
            name,
            held_out=watched,
            recipe=recipe,
            watch=watch,
            execution=execution,
            raw=raw,
            resume=resume,
            overwrite=overwrite,
            on_step=on_step,
            on_plan=tell,
            plan=planned,
            from_adapter=parent,
        )
    folder = runs_dir() / name
    try:
        curve: Path | None = draw_loss_curve(folder, name)
    except (MissingExtraError, OSError) as error:  # the result is told all the same: the adapter is on the shelf
        curve = None
        notes.print(f"no loss curve: {error}", style="yellow")
    _tell_result(loaded, result, folder=folder, curve=curve, as_json=json)


def _base_of(parent: Adapter | None, quantize: Quantize) -> tuple[str, Quantize]:
    """The base of a run for which none was given, and how it is packed."""
    from kameleon.bases import reference_of

    if parent is None:
        return "smollm2", quantize
    if parent.card.base_id is None:
        raise SettingError(f"adapter {parent.name!r} does not say which base it was trained on: give it as --base")
    ref, packed = reference_of(parent.card.base_id)
    return ref, quantize if packed is None else packed


def _tell_settings(
    made: Plan, corpus: Corpus, settings: tuple[Recipe, Watch, Execution], parent: Adapter | None
) -> None:
    from kameleon.training import FIXED

    shown = table("setting", ">value", "why", title="settings")
    recipe, watch, _ = settings
    given = {setting.name for one in settings for setting in explain(one, type(one)()) if setting.changed}
    settled = (made.recipe, watch, made.chosen.execution)
    for setting in (setting for one in settled for setting in explain(one, type(one)())):
        why = "you chose it" if setting.name in given else setting.reason
        if parent is not None and setting.name in FIXED:
            why = f"as adapter {parent.name}, which it goes on from, has it"
        shown.add_row(setting.name, str(setting.value), why)
    notes.print(shown)
    doubts = "" if not corpus.doubts else f"; {len(corpus.doubts)} doubtful (see `kameleon data check`)"
    origin = corpus.origin
    rows = f"{origin.rows:,} rows"
    if recipe.rows is not None and origin.of_rows is not None:
        fewer = origin.of_rows < recipe.rows
        rows = f"all {rows}, fewer than {recipe.rows:,}" if fewer else f"{origin.rows:,} of {origin.of_rows:,} rows"
    notes.print(f"{rows}, {origin.trained_tokens:,} tokens to learn{doubts}", highlight=False)


def _tell_system_prompt(before: Corpus, corpus: Corpus, parent: Adapter | None) -> None:
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
        notes.print(printable(f"{mixed.text}; this one keeps none"), style="yellow", highlight=False)
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


def _tell_result(loaded: LoadedBase, result: RunResult, *, folder: Path, curve: Path | None, as_json: bool) -> None:
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
