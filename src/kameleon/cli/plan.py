"""kameleon plan: memory, minutes and disk space that a run needs, before the base is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group

from kameleon.cli.console import (
    Compute,
    Json,
    MemoryBudget,
    Quantize,
    Raw,
    megabytes,
    memory_budget,
    notes,
    show,
    table,
)
from kameleon.cli.flags import in_flags
from kameleon.cli.settings import GivenRecipe
from kameleon.settings import Execution, Reading, Recipe, Watch

if TYPE_CHECKING:
    from kameleon.data import Corpus
    from kameleon.plan import CommonBase, Memory, Option, Plan


def plan(
    data: Annotated[
        str | None, Parameter(help="The rows of the run; without it, 1,000 rows of 512 tokens are assumed.")
    ] = None,
    *,
    base: Annotated[
        str,
        Parameter(
            help="The frozen base: smollm2 or gemma3-270m, a folder, a .gguf file, a hub id owner/name, or a name out "
            "of the table of common bases (as a Q4_K_M file)."
        ),
    ] = "smollm2",
    held_out: Annotated[str | None, Parameter(help="Rows to watch the run with, as for `kameleon train`.")] = None,
    memory: MemoryBudget = None,
    quantize: Quantize = None,
    compute: Compute = None,
    given_recipe: Annotated[GivenRecipe, Parameter(name="*")] = GivenRecipe(),  # noqa: B008 (frozen)
    watch: Annotated[Watch, Parameter(name="*")] = Watch(),  # noqa: B008 (frozen)
    execution: Annotated[Execution, Parameter(name="*")] = Execution(),  # noqa: B008 (frozen)
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),  # noqa: B008 (frozen)
    raw: Raw = False,
    json: Json = False,
) -> None:
    """Show what a training run needs and takes on this machine: memory by part, minutes, disk, adapter size.

    Only the base's config and headers are read, so nothing else of a base on the hub is fetched, and a .gguf file may
    still be downloading. The speed of this machine is measured, which takes some seconds.

    Try: kameleon plan law.jsonl; or kameleon plan --base Qwen/Qwen2.5-7B-Instruct --memory 8GB;
    or kameleon plan --base "Llama 3.1 8B"
    """
    from kameleon.machine import available_memory_bytes
    from kameleon.ops import COMPUTE_TYPES
    from kameleon.plan import common_bases
    from kameleon.unloaded import plan as make
    from kameleon.unloaded import read

    budget = memory_budget(memory)
    recipe = Recipe(**given_recipe.given)

    def rows_of(source: str | None, sample: int | None = None) -> Corpus | None:
        if source is None:
            return None
        most = recipe.max_row_tokens
        return read(base, source, raw=raw, max_row_tokens=most, rows=sample, seed=recipe.seed, reading=reading)

    rows, watched = rows_of(data, recipe.rows), rows_of(held_out)  # a wrong file is told at once
    notes.print("measuring this machine, some seconds …", style="dim")
    dtype = compute and COMPUTE_TYPES[compute]
    made = make(
        base,
        rows,
        recipe=recipe,
        watch=watch,
        execution=execution,
        memory_bytes=budget,
        quantize=quantize,
        held_out=watched,
        dtype=dtype,
        reading=reading,
    )
    room = budget if budget is not None else available_memory_bytes()
    bases = common_bases(recipe, made.dtype, process_bytes=made.process_bytes, room_bytes=room)
    show(_document(made, bases, room), Group(*_pictures(made, bases, room)), as_json=json)


def _document(made: Plan, bases: list[CommonBase], room: int | None) -> dict[str, Any]:
    from kameleon.ops import compute_name
    from kameleon.plan import parameter_table

    return {
        "base": made.header.name,
        "compute_type": compute_name(made.dtype),
        **_figures(made.chosen),
        "fits": None if room is None else made.chosen.memory.peak_bytes <= room,
        "room_bytes": room,
        "trainable_parameters": made.trainable_parameters,
        "adapter_bytes": made.adapter_bytes,
        "disk_bytes": made.disk_bytes,
        "rows": made.workload.schedule.rows,
        "rows_per_step": made.recipe.rows_per_step,
        "epochs": made.recipe.epochs,
        "steps": made.workload.steps,
        "expected_steps": made.expected_steps,
        "expected_seconds": made.expected_seconds,
        "tokens": round(made.workload.tokens),
        "assumed": made.workload.assumed or None,
        "why": list(map(in_flags, made.why)),
        "warnings": list(map(in_flags, made.workload.warnings)),
        "cheaper": [_figures(option) for option in made.cheaper],
        "parameters_by_targets_and_rank": parameter_table(made.header.config, made.recipe),
        "bases": [
            {
                "name": one.name,
                "parameters": one.parameters,
                "file_bytes": one.file_bytes,
                "peak_bytes": one.memory.peak_bytes,
                "private_bytes": one.memory.private_bytes,
                "checkpoint_layers": one.checkpoint_layers,
                "seconds_per_1000_tokens": one.seconds_per_1000_tokens,
                "fits": one.fits,
            }
            for one in bases
        ],
    }


def _figures(option: Option) -> dict[str, Any]:
    return {
        "peak_bytes": option.memory.peak_bytes,
        "private_bytes": option.memory.private_bytes,
        "minutes_per_epoch": option.minutes_per_epoch,
        "parts": dict(vars(option.memory)),
        "settings": option.settings,
    }


def _pictures(made: Plan, bases: list[CommonBase], room: int | None) -> list[Any]:
    from kameleon.plan import parameter_table

    work, memory = made.workload, made.chosen.memory
    told = table("", "", title=f"plan for {made.header.name}, rank {made.recipe.rank} on {made.recipe.targets}")
    told.add_row("rows", work.assumed or f"{work.schedule.rows:,} to learn, {work.tokens:,.0f} tokens through the base")
    told.add_row(
        "steps", f"{work.steps:,}, rows_per_step {work.schedule.rows_per_step}, epochs {work.schedule.epochs:g}"
    )
    told.add_row("trained", f"{made.trainable_parameters:,} numbers, a file of {megabytes(made.adapter_bytes)}")
    told.add_row("peak memory", f"{_gb(memory.peak_bytes)}, of which private {_gb(memory.private_bytes)}")
    told.add_row("time", f"{_long(made.chosen.minutes_per_epoch)} an epoch")
    disk = made.disk_bytes
    told.add_row(
        "disk", f"{_gb(sum(disk.values()))} ({', '.join(f'{k} {megabytes(v)}' for k, v in disk.items() if v)})"
    )
    told.add_row("settings", ", ".join(f"{k} {v}" for k, v in made.chosen.settings.items() if v is not None))
    if room is not None:
        fits = "fits" if memory.peak_bytes <= room else "DOES NOT FIT; see what is cheaper below"
        told.add_row("here", f"{_gb(room)} to use: it {fits}")
    for reason in map(in_flags, made.why):
        told.add_row("why", reason)
    for doubt in map(in_flags, work.warnings):
        told.add_row("warning", doubt, style="yellow")
    counts = parameter_table(made.header.config, made.recipe)
    ranks = list(next(iter(counts.values())))
    sizes = table("targets", *(f">rank {rank}" for rank in ranks), title="trained numbers, by targets and rank")
    for targets, by_rank in counts.items():
        sizes.add_row(targets.replace(",", ", "), *(f"{by_rank[rank]:,}" for rank in ranks))
    return [told, "", _parts_table(memory), "", _cheaper_table(made), "", sizes, "", _bases_table(bases)]


def _parts_table(memory: Memory) -> Any:
    parts = table("part", ">MB", title="peak memory by part")
    for part, size in vars(memory).items():
        parts.add_row(part.replace("_", " "), f"{size / 1e6:,.0f}")
    return parts


def _cheaper_table(made: Plan) -> Any:
    shown = table(">peak", ">minutes an epoch", "settings", title="cheaper in memory, down to the least")
    for option in made.cheaper:
        settings = ", ".join(f"{k} {v}" for k, v in option.settings.items() if v is not None)
        shown.add_row(_gb(option.memory.peak_bytes), f"{option.minutes_per_epoch:.1f}", settings)
    if not made.cheaper:
        shown.add_row("–", "–", "this is the cheapest")
    return shown


def _bases_table(bases: list[CommonBase]) -> Any:
    title = "common bases as Q4_K_M files, rows of 512 tokens, all linear layers"
    shown = table("base", ">file", ">peak", ">about s per 1,000 tokens", ">recomputed", "fits here", title=title)
    for one in bases:
        fits = "?" if one.fits is None else "yes" if one.fits else "no"
        again = f"{one.checkpoint_layers} layers" if one.checkpoint_layers else "none"
        sizes = _gb(one.file_bytes), _gb(one.memory.peak_bytes), f"{one.seconds_per_1000_tokens:.1f}"
        shown.add_row(one.name, *sizes, again, fits)
    return shown


def tell_plan(made: Plan) -> None:
    """Print what `kameleon train` expects, before its first step."""
    memory, settings = made.chosen.memory, made.chosen.settings
    shown = ", ".join(f"{k} {v}" for k, v in settings.items() if v is not None)
    for reason in map(in_flags, made.why):
        notes.print(f"plan: {reason}", highlight=False)
    notes.print(
        f"plan: peak {_gb(memory.peak_bytes)} ({_gb(memory.private_bytes)} private), "
        f"{_long(made.expected_seconds / 60)}; {shown}",
        highlight=False,
    )


def _long(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.2f} GB"
