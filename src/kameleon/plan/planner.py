"""A plan: what a run will need and take with the settings given, or with the fastest that fit a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kameleon.errors import SettingError
from kameleon.notebook import html_table
from kameleon.ops import choose_compute_type, kernels
from kameleon.plan.calibration import calibrate
from kameleon.plan.counts import adapter_bytes, trainable_parameters
from kameleon.plan.header import BaseHeader
from kameleon.plan.memory import Memory, training_memory
from kameleon.plan.workload import FEW_HELD_OUT, FEW_STEPS, Workload
from kameleon.settings import MOST_BYTES, Execution, Recipe, Watch
from kameleon.training import Forecast, lowest_layer, settled
from kameleon.words import number_in_words, short_repr

# Chosen settings leave this share of the budget free: half of the sums' largest error (docs/decisions/plans.md).
_SPARE = 0.05
_LEAST_MICRO_BATCH_TOKENS = 128
_SHOWN_CHEAPER = 4
_MOST_LOOKING = 0.2  # of a budget of minutes


@dataclass(frozen=True)
class Option:
    """One way to compute a run, with its memory and time: `seconds` of the whole run, looks included."""

    watch: Watch
    execution: Execution
    quantize: str | None
    memory: Memory
    seconds: float
    look_seconds: float
    minutes_per_epoch: float

    __repr__ = short_repr

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the planner chooses."""
        return {
            "micro_batch_tokens": self.execution.pass_tokens,
            "checkpoint_layers": self.execution.recomputed_layers,
            "quantize": self.quantize,
        }


@dataclass(frozen=True)
class Plan:
    """The chosen way and the reasons; `cheaper` are some ways that need less memory, down to the least.

    `recipe` has the values that were derived.
    """

    header: BaseHeader
    recipe: Recipe
    workload: Workload
    dtype: torch.dtype
    chosen: Option
    cheaper: tuple[Option, ...] = field(repr=False)
    why: tuple[str, ...]
    process_bytes: int
    memory_bytes: int | None

    def __repr__(self) -> str:
        return f"Plan({self.header.name!r}: {'; '.join(f'{what} {told}' for what, told in self._told())})"

    def _repr_html_(self) -> str:
        why = (("why", one) for one in self.why)
        doubts = (("warning", one) for one in self.workload.warnings)
        return html_table(("", ""), [*self._told(), *why, *doubts], title=f"a run on {self.header.name}")

    def _told(self) -> list[tuple[str, str]]:
        """The main figures in words."""
        return [
            ("steps", f"{self.expected_steps:,}"),
            ("time", f"{self.expected_seconds / 60:.1f} min"),
            ("memory", _gb(self.chosen.memory.peak_bytes)),
            ("settings", _words(self.chosen)),
            ("adapter", f"{self.trainable_parameters:,} numbers, {self.adapter_bytes / 1e6:.1f} MB"),
        ]

    @property
    def forecast(self) -> Forecast:
        """The figures with which the run is compared at its end."""
        return Forecast(self.chosen.memory.peak_bytes, self.expected_seconds / self.expected_steps)

    @property
    def expected_seconds(self) -> float:
        """Seconds of the run: of all its steps, or the recipe's minutes if these are less."""
        return (
            self.chosen.seconds if self.recipe.minutes is None else min(self.chosen.seconds, self.recipe.minutes * 60)
        )

    @property
    def expected_steps(self) -> int:
        """Steps of the run: all, or those that fit into the recipe's minutes."""
        # Eight looks are made in a run of any length; with eval_every their number follows the steps.
        looks_s = self.chosen.look_seconds * self.workload.looks if self.chosen.watch.eval_every is None else 0
        share = (self.expected_seconds - looks_s) / (self.chosen.seconds - looks_s)
        return max(1, int(self.workload.steps * min(1.0, share)))

    @property
    def trainable_parameters(self) -> int:
        """Numbers that the run trains."""
        return trainable_parameters(self.header.config, self.recipe)

    @property
    def adapter_bytes(self) -> int:
        """Size of the adapter's file."""
        return adapter_bytes(self.header.config, self.recipe)

    @property
    def disk_bytes(self) -> dict[str, int]:
        """Bytes that will be written: the download of the base, its packed copy, the adapter twice (its best look, and
        on the shelf), and a checkpoint with AdamW's averages.
        """
        packed = self.header.in_nf4().cache_bytes if self.chosen.quantize else 0
        return {
            "fetch": self.header.fetch_bytes,
            "cache": packed,
            "adapter": 2 * self.adapter_bytes,
            "checkpoint": 3 * self.adapter_bytes,
        }


def _budget(memory_bytes: int | None) -> int | None:
    """The part of the memory that a plan may fill."""
    if memory_bytes is None:
        return None
    if not 1 <= memory_bytes <= MOST_BYTES:
        raise SettingError(f"memory_bytes is {number_in_words(memory_bytes)}; it must be from 1 to {MOST_BYTES}")
    return int(memory_bytes * (1 - _SPARE))


def make_plan(
    header: BaseHeader,
    workload: Callable[[Watch, Execution], Workload],
    *,
    recipe: Recipe,
    watch: Watch,
    execution: Execution,
    process_bytes: int,
    memory_bytes: int | None = None,
    quantize: str | None = None,
    may_quantize: bool = False,
    dtype: torch.dtype | None = None,
    keep_passes: bool = False,
) -> Plan:
    """Plan a run on the base of `header`, which is packed already if `quantize` says so.

    With `memory_bytes` the fastest settings that fit are chosen: fields of `execution` that are None, and NF4 if
    `may_quantize` and nothing fits otherwise. Without it these fields get their defaults. Where looks would take much
    of the recipe's minutes, fewer rows are looked at. With `keep_passes` neither micro_batch_tokens nor eval_rows is
    chosen, since the run has begun with them. `workload` lays a run out; `process_bytes` is the memory that the
    process holds before the run.
    Raises SettingError when nothing fits; its message names the least memory that is enough.
    """
    dtype = choose_compute_type(dtype).dtype
    works: dict[tuple[int, int], Workload] = {}

    def work_of(watch: Watch, execution: Execution) -> Workload:
        key = execution.pass_tokens, watch.eval_rows
        if key not in works:
            works[key] = workload(watch, execution)
        return works[key]

    def option(header: BaseHeader, watch: Watch, execution: Execution, quantize: str | None) -> Option:
        work = work_of(watch, execution)
        tokens = work_of(watch, given).largest.tokens
        rates = calibrate(header, recipe.rank, recipe.variant, recipe.targets, dtype, tokens)
        seconds = rates.run_seconds(header, recipe, execution, work)
        memory = training_memory(header, recipe, execution, work, dtype=dtype, process_bytes=process_bytes)
        look = sum(rates.look_seconds(header, one) for one in work.look)
        per_epoch = seconds / work.steps * work.schedule.steps_per_epoch / 60
        return Option(watch, execution, quantize, memory, seconds, look, per_epoch)

    given = Execution(execution.pass_tokens, execution.recomputed_layers)
    trained_layers = header.config.num_layers - lowest_layer(header.config, recipe)
    choices = _choices(execution, trained_layers, keep_passes=keep_passes)
    options = [option(header, watch, one, quantize) for one in choices]
    budget = _budget(memory_bytes)
    why: list[str] = []
    if kernels().level is None:
        why.append("the reference path runs here, which is slower and holds several times more than this plan says")
    why += work_of(watch, given).why
    if budget is None:
        chosen = next(one for one in options if one.execution == given)
    else:
        fitting = [one for one in options if one.memory.peak_bytes <= budget]
        if not fitting and may_quantize and quantize is None and not header.packed_file:
            packed = header.in_nf4()
            why.append(f"nf4: as it is stored the base needs at least {_gb(min(o.memory.peak_bytes for o in options))}")
            options = [option(packed, watch, one, "nf4") for one in choices]
            fitting = [one for one in options if one.memory.peak_bytes <= budget]
        if not fitting:
            least = min(options, key=lambda one: one.memory.peak_bytes)
            raise SettingError(
                f"{_gb(memory_bytes or 0)} are not enough: the least that {header.name} trains in here is "
                f"{_gb(least.memory.peak_bytes / (1 - _SPARE))}, with {_words(least)}, "
                f"{_gb(least.memory.base_mapped)} of it the base; give more, or take shorter rows (max_row_tokens), "
                "a lower rank, or a smaller base"
            )
        chosen = min(fitting, key=lambda one: one.seconds)
        why += _reasons(chosen, given, options, budget)
    shown = header.in_nf4() if chosen.quantize and not quantize else header
    cheaper = _cheaper(chosen, options)
    if recipe.minutes is not None and not keep_passes:
        rows = _looked_at(chosen, work_of(chosen.watch, chosen.execution), recipe.minutes)
        if rows != chosen.watch.eval_rows:
            why.append(f"eval_rows {rows}: more would take over {_MOST_LOOKING:.0%} of the minutes in looks")
            chosen = option(shown, replace(chosen.watch, eval_rows=rows), chosen.execution, chosen.quantize)
    work = work_of(chosen.watch, chosen.execution)
    recipe = settled(recipe, header.config, work.schedule)
    made = Plan(shown, recipe, work, dtype, chosen, cheaper, tuple(why), process_bytes, memory_bytes)
    return made if recipe.minutes is None else _in_time(made, recipe.minutes)


def _looked_at(option: Option, work: Workload, minutes: float) -> int:
    """How many held-out rows a look takes within `minutes`; 0 where only a few would fit. A given number stays."""
    taken = option.look_seconds * work.looks / (minutes * 60)
    if option.watch.eval_rows != Watch().eval_rows or taken <= _MOST_LOOKING:
        return option.watch.eval_rows
    rows = int(work.look_rows * _MOST_LOOKING / taken)
    return rows if rows >= FEW_HELD_OUT else 0


def _in_time(plan: Plan, minutes: float) -> Plan:
    """The plan with a sentence on the steps that fit into the minutes."""
    work, steps = plan.workload, plan.expected_steps
    fits = plan.chosen.seconds <= minutes * 60
    if fits:
        told = (
            f"{minutes:g} minutes are more than needed: all {steps:,} steps take about {plan.chosen.seconds / 60:.1f}"
        )
    else:
        rows = f"{work.schedule.visited(steps):,} of {work.schedule.visits:,} visits to rows"
        told = f"{minutes:g} minutes are enough for about {steps:,} of {work.steps:,} steps, {rows}"
    few = not fits and steps < FEW_STEPS
    doubt = f"too few steps: {told}; give more minutes, or take fewer layers or shorter rows (max_row_tokens)"
    work = replace(work, warnings=(*work.warnings, doubt)) if few else work
    return replace(plan, workload=work, why=plan.why if few else (*plan.why, told))


def _choices(execution: Execution, layers: int, *, keep_passes: bool) -> list[Execution]:
    """Every way to compute a run that trains `layers` layers: fields that are None are free."""
    sizes = [execution.pass_tokens]
    while not keep_passes and execution.micro_batch_tokens is None and sizes[-1] > _LEAST_MICRO_BATCH_TOKENS:
        sizes.append(sizes[-1] // 2)
    # Not all layers: the last one's gradient comes first, so its activations would be freed and recomputed at once.
    counts = range(layers) if execution.checkpoint_layers is None else [execution.checkpoint_layers]
    return [Execution(size, count) for count in counts for size in sizes]


def _cheaper(chosen: Option, options: Sequence[Option]) -> tuple[Option, ...]:
    """Some options that need less memory than the chosen one, spread evenly down to the least.

    An option that another one beats in both memory and time is left out.
    """
    less = sorted(
        (one for one in options if one.memory.peak_bytes < chosen.memory.peak_bytes),
        key=lambda one: (one.memory.peak_bytes, one.seconds),
    )
    kept: list[Option] = []
    for one in less:  # from the least memory on: more of it must buy time
        while kept and one.memory.peak_bytes == kept[-1].memory.peak_bytes and one.seconds < kept[-1].seconds:
            kept.pop()
        if not kept or one.seconds < kept[-1].seconds:
            kept.append(one)
    kept.reverse()
    shown = min(_SHOWN_CHEAPER, len(kept))
    return tuple(kept[(number * len(kept) - 1) // shown] for number in range(1, shown + 1))


def _reasons(chosen: Option, given: Execution, options: Sequence[Option], budget: int) -> list[str]:
    """Why the chosen option differs from the given settings."""
    as_given = next((one for one in options if one.execution == given), None)
    if as_given is None or chosen is as_given:
        return [f"{_words(chosen)}: the fastest of what fits"]
    over = as_given.memory.peak_bytes > budget
    because = (
        f"{_words(as_given)} needs {_gb(as_given.memory.peak_bytes)}" if over else f"faster than {_words(as_given)}"
    )
    return [f"{_words(chosen)}: the fastest of what fits; {because}"]


def _words(option: Option) -> str:
    count = option.execution.recomputed_layers
    again = f"{count} layer{'s' if count > 1 else ''} recomputed" if count else "layers stored"
    packed = f", {option.quantize}" if option.quantize else ""
    return f"{option.execution.pass_tokens} tokens a pass, {again}{packed}"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
