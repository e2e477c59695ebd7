"""A run on a base that is loaded: its plan, and the run itself before its first step."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from kameleon.adapters import Adapter, Card
from kameleon.bases import Base
from kameleon.data import Corpus
from kameleon.home import runs_dir
from kameleon.plan import Plan, copied_bytes, make_plan, process_bytes, read_base_header, workload_of
from kameleon.settings import Execution, Recipe, Watch
from kameleon.training import Forecast, Run


def plan_run(
    base: Base,
    data: Corpus,
    held_out: Corpus,
    *,
    recipe: Recipe,
    watch: Watch,
    execution: Execution,
    memory_bytes: int | None = None,
    keep_passes: bool = False,
) -> Plan:
    """The memory and time that a run on this base needs. `keep_passes` is for a run that is resumed.

    Raises SettingError when nothing fits in `memory_bytes`.
    """
    header = read_base_header(base.files.ref, base.quantize)
    held = max(0, process_bytes() - copied_bytes(header, base.compute_dtype))  # the base's own part is counted apart
    return make_plan(
        header,
        partial(workload_of, data.examples, held_out.examples, recipe),
        recipe=recipe,
        watch=watch,
        execution=execution,
        process_bytes=held,
        memory_bytes=memory_bytes,
        quantize=base.quantize,
        dtype=base.compute_dtype,
        keep_passes=keep_passes,
    )


def new_run(
    base: Base,
    data: Corpus,
    name: str,
    *,
    held_out: Corpus,
    recipe: Recipe,
    watch: Watch,
    execution: Execution,
    overwrite: bool = False,
    forecast: Forecast | None = None,
    parent: Adapter | None = None,
) -> Run:
    """A run before its start. With `overwrite`, its start deletes an unfinished run of that name.

    With `parent`, it begins with that adapter's numbers.
    """
    card = Card.of_base(
        base,
        data=asdict(data.origin),
        system_prompt=data.system_prompt,
        parents=() if parent is None else (parent.as_parent(1.0, "trained further"),),
    )
    return Run(
        base,
        runs_dir() / name,
        card,
        name,
        examples=data.examples,
        held_out=held_out.examples,
        recipe=recipe,
        watch=watch,
        execution=execution,
        overwrite=overwrite,
        forecast=forecast,
        parent=parent,
    )
