"""Reading rows and planning runs without a loaded base: its header and tokenizer are enough."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from kameleon.adapters import Adapter, fit
from kameleon.data import Corpus, Data, Example, fitting, read_corpus, split_held_out
from kameleon.errors import WeightsError
from kameleon.home import runs_dir
from kameleon.model import DecoderConfig
from kameleon.plan import (
    COMMON_NAMES,
    BaseHeader,
    Plan,
    Workload,
    assumed_workload,
    common_header,
    make_plan,
    process_bytes,
    read_base_header,
    workload_of,
)
from kameleon.settings import Execution, Reading
from kameleon.text import ChatTemplate
from kameleon.training import Recipe, Watch, recipe_from, saved_identity

_ASSUMED_ROWS, _ASSUMED_ROW_TOKENS = 1000, 512


def read(
    ref: str,
    data: Data,
    *,
    raw: bool = False,
    max_row_tokens: int = 2048,
    rows: int | None = None,
    seed: int = 0,
    reading: Reading | None = None,
    date: datetime.date | None = None,
) -> Corpus:
    """Rows of a file or hub id, encoded for the base that `ref` names, of which only the tokenizer must be here.

    With `rows`, a sample of that size. `date` is what a template writes that asks for a date; None: today's.
    Raises BaseModelError, DataError.
    """
    template = _header(ref).template().on(date)
    return read_corpus(data, template, raw=raw, max_tokens=max_row_tokens, rows=rows, seed=seed, reading=reading)


def plan(
    ref: str,
    data: Data | Corpus | None = None,
    *,
    recipe: Recipe | None = None,
    watch: Watch | None = None,
    execution: Execution | None = None,
    memory_bytes: int | None = None,
    quantize: str | None = None,
    raw: bool = False,
    held_out: Data | Corpus | None = None,
    dtype: torch.dtype | None = None,
    keep_passes: bool = False,
    parent: Adapter | None = None,
    reading: Reading | None = None,
) -> Plan:
    """The memory and time that a run on `data` would need on this machine. Of the base only the header must be here.

    `ref` may also be one of `plan.COMMON_NAMES`: a Q4_K_M file of that base is assumed, without a tokenizer.
    `data`: None assumes a thousand rows of 512 tokens.
    `memory_bytes`: settings are chosen that fit, NF4 too if the base would not fit otherwise.
    `keep_passes` is for a run that is resumed; `parent` is the adapter that a run goes on from.
    Raises BaseModelError, DataError, SettingError, AdapterError.
    """
    recipe = Recipe() if recipe is None else recipe
    watch = Watch() if watch is None else watch
    execution = Execution() if execution is None else execution
    header = _header(ref, quantize)
    if parent is not None:
        recipe = recipe_from(parent, header.config, recipe)
    examples: Sequence[Example] = ()
    watched: Sequence[Example] = ()
    if data is None:
        with suppress(WeightsError):  # a tokenizer that is here counts: a run's process holds it
            header.template()
    else:
        template = header.template()
        corpus, aside = rows_of_run(
            template,
            header.config,
            data,
            held_out=held_out,
            recipe=recipe,
            raw=raw,
            parent=parent,
            reading=reading,
        )
        examples, watched = corpus.examples, aside.examples

    def workload(watch: Watch, execution: Execution) -> Workload:
        if not examples:
            rows = _ASSUMED_ROWS if recipe.rows is None else recipe.rows
            return assumed_workload(_ASSUMED_ROW_TOKENS, rows, recipe, execution)
        return workload_of(examples, watched, recipe, watch, execution)

    return make_plan(
        header,
        workload,
        recipe=recipe,
        watch=watch,
        execution=execution,
        process_bytes=process_bytes(),
        memory_bytes=memory_bytes,
        quantize=quantize,
        may_quantize=parent is None,  # a packed base is another base
        dtype=dtype,
        keep_passes=keep_passes,
    )


def _header(ref: str, quantize: str | None = None) -> BaseHeader:
    return (common_header if ref in COMMON_NAMES else read_base_header)(ref, quantize)


def check_shapes(ref: str, adapter: Adapter) -> None:
    """Raise AdapterMismatchError, naming all faults, for an adapter that does not fit the base that `ref` names."""
    header = read_base_header(ref)
    fit.check_shapes(ref, header.config, header.tensors, adapter)


def rows_of_run(
    template: ChatTemplate,
    config: DecoderConfig,
    data: Data | Corpus,
    *,
    held_out: Data | Corpus | None,
    recipe: Recipe,
    raw: bool,
    parent: Adapter | None,
    reading: Reading | None = None,
) -> tuple[Corpus, Corpus]:
    """The rows to learn from and those to watch the run with; files are read here.

    Rows without a system message get the one that the run's parent was trained with. Raises DataError, also for rows
    that a base of this config cannot take; `reading.skip_bad` leaves those out too.
    """
    template = template.on_one_day()
    skip_bad = reading is not None and reading.skip_bad
    if not isinstance(data, Corpus):
        data = read_corpus(
            data,
            template,
            raw=raw,
            max_tokens=recipe.max_row_tokens,
            rows=recipe.rows,
            seed=recipe.seed,
            reading=reading,
        )
    if parent is not None:
        data = data.with_system_prompt(template, parent.card.system_prompt)
    data = fitting(data, config, skip_bad=skip_bad)
    if held_out is None:
        return split_held_out(data, recipe.seed)
    if not isinstance(held_out, Corpus):
        held_out = read_corpus(held_out, template, raw=raw, max_tokens=recipe.max_row_tokens, reading=reading)
    held_out = held_out.with_system_prompt(template, data.system_prompt)
    return data, fitting(held_out, config, skip_bad=skip_bad)


def date_of_run(name: str) -> datetime.date | None:
    """The date that the template writes into the rows of the unfinished run `name`; None if it writes none."""
    date = saved_identity(runs_dir() / name).get("data", {}).get("date")
    return None if date is None else datetime.date.fromisoformat(date)


def resumed(name: str, watch: Watch, execution: Execution) -> tuple[Watch, Execution]:
    """Both with the values that a plan chose for the unfinished run `name`, which must keep them. Given values stay."""
    saved = saved_identity(runs_dir() / name)
    if execution.micro_batch_tokens is None and "micro_batch_tokens" in saved:
        execution = replace(execution, micro_batch_tokens=saved["micro_batch_tokens"])
    if watch.eval_rows == Watch().eval_rows and "eval_rows" in saved:
        watch = replace(watch, eval_rows=saved["eval_rows"])
    return watch, execution
