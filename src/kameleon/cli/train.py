"""kameleon train: one adapter from rows of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kameleon.cli.answering import base_of
from kameleon.cli.console import Compute, Json, MemoryBudget, Quantize, Raw, memory_budget, notes, open_base
from kameleon.cli.plan import tell_plan
from kameleon.cli.settings import GivenExecution, GivenRecipe, GivenWatch
from kameleon.cli.told_run import tell_result, tell_rows, tell_settings, tell_system_prompt, training_bar
from kameleon.errors import MissingExtraError
from kameleon.home import runs_dir
from kameleon.settings import Execution, Reading, Recipe, Watch

if TYPE_CHECKING:
    from kameleon.plan import Plan


def train(
    data: Annotated[
        str,
        Parameter(help="Rows to learn from: JSONL, JSON, CSV, TSV or Parquet; or a hub data set, owner/name(:SPLIT)."),
    ],
    *,
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
    given_recipe: Annotated[GivenRecipe, Parameter(name="*")] = GivenRecipe(),  # noqa: B008 (frozen)
    given_watch: Annotated[GivenWatch, Parameter(name="*")] = GivenWatch(),  # noqa: B008 (frozen)
    given_execution: Annotated[GivenExecution, Parameter(name="*")] = GivenExecution(),  # noqa: B008 (frozen)
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),  # noqa: B008 (frozen)
    raw: Raw = False,
    resume: Annotated[
        bool, Parameter(help="Go on with an interrupted run; the adapter is the same, bit for bit.")
    ] = False,
    overwrite: Annotated[bool, Parameter(help="Replace an adapter or an unfinished run of that name.")] = False,
    config: Annotated[
        Path | None, Parameter(help="Settings from the [train] table of a TOML file; flags win (--raw=false).")
    ] = None,
    verbose: Annotated[
        bool, Parameter(help="Show every setting with its reason, not only those that differ from the defaults.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a LoRA adapter on the frozen base and put it on the shelf.

    Ctrl-C saves; the same command with --resume goes on. Look at the data first with `kameleon data check`.

    Try: kameleon train law.jsonl --name law; or kameleon train --config law.toml --epochs 2;
    or, with more rows later: kameleon train more.jsonl --from law --name law
    """
    from kameleon.adapters import Shelf
    from kameleon.data import find_data
    from kameleon.ops import COMPUTE_TYPES
    from kameleon.plan import read_base_header
    from kameleon.text import today
    from kameleon.training import (
        draw_loss_curve,
        find_parent,
        recipe_from,
        require_free,
        resumed_compute,
        target_modules,
    )
    from kameleon.unloaded import date_of_run, plan, read, resumed

    given = given_recipe.given.keys() | given_watch.given.keys() | given_execution.given.keys()
    recipe, watch = Recipe(**given_recipe.given), Watch(**given_watch.given)
    execution = Execution(**given_execution.given)
    budget = memory_budget(memory)
    # Everything that can be checked without the base is an error at once.
    for source in (data, held_out):
        if source is not None:
            find_data(source)
    parent = None if from_adapter is None else find_parent(from_adapter, Shelf(), run=name, resume=resume)
    if resume:
        compute = resumed_compute(runs_dir() / name, compute)
    elif not overwrite:
        require_free(name, Shelf(), parent)
    if base is None:
        base, quantize = base_of(parent, quantize)
    shape = read_base_header(base).config
    if parent is not None:
        recipe = recipe_from(parent, shape, recipe, given=given)
    target_modules(shape, recipe)
    date = date_of_run(name) if resume else today()
    how: dict[str, Any] = {"raw": raw, "max_row_tokens": recipe.max_row_tokens, "reading": reading, "date": date}
    corpus = read(base, data, rows=recipe.rows, seed=recipe.seed, **how)
    watched = None if held_out is None else read(base, held_out, **how)
    planned = None
    if budget is not None:  # planned before the base is loaded, so that the promise of `kameleon plan` holds
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
            reading=reading,
        )
        quantize = "nf4" if planned.chosen.quantize else None
    loaded = open_base(base, quantize, compute=compute)
    rows = corpus if parent is None else corpus.with_system_prompt(loaded.base.template, parent.card.system_prompt)

    def tell(made: Plan) -> None:
        tell_settings(made, watch, given=given, parent=parent, verbose=verbose)
        tell_rows(rows, recipe.rows)
        tell_system_prompt(corpus, rows, parent)
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
            reading=reading,
        )
    folder = runs_dir() / name
    try:
        curve: Path | None = draw_loss_curve(folder, name)
    except (MissingExtraError, OSError) as error:  # the result is told all the same: the adapter is on the shelf
        curve = None
        notes.print(f"no loss curve: {error}", style="yellow")
    tell_result(loaded, result, folder=folder, curve=curve, as_json=json)
