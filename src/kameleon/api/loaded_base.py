"""A base in memory and what a person does with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kameleon.adapters import Adapter, Proof, Shelf, prove
from kameleon.adapters.fit import check_base
from kameleon.adapters.formats import read_adapter
from kameleon.adapters.resident import Bank
from kameleon.api.prompts import Prompt, encode_prompt
from kameleon.api.runs import new_run, plan_run
from kameleon.bases import Base, load_base
from kameleon.data import Corpus, read_corpus, require_fit, shared_tools, unread_fields
from kameleon.errors import SettingError
from kameleon.evaluation import Score, TestSet, evaluate_as_trained, make_test_set
from kameleon.generation import Completion, Piece, Request, Sampling, generate, stream
from kameleon.home import runs_dir
from kameleon.ops import compute_name
from kameleon.plan import Plan
from kameleon.settings import Execution
from kameleon.training import (
    Recipe,
    RunResult,
    StepReport,
    Watch,
    find_parent,
    recipe_from,
    require_free,
    resumed_compute,
)
from kameleon.unloaded import resumed, rows_of_run


def load(
    ref: str = "smollm2",
    dtype: torch.dtype | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    quantize: str | None = None,
) -> LoadedBase:
    """The base that `ref` names, ready for adapters: "smollm2", a folder, a `.gguf` file or a Hugging Face id.

    `dtype` is torch.bfloat16 or torch.float32; None takes bf16 if this machine has units for it, else fp32.
    `on_progress(what, done, total)` reports fetching and loading. `quantize` "nf4" packs the matrices of a folder in
    Hugging Face layout to 4 bits, once, into the cache. Raises BaseModelError, SettingError.
    """
    return LoadedBase(load_base(ref, dtype, on_progress=on_progress, quantize=quantize))


class LoadedBase:
    """A frozen base and the adapters resident beside it. The base itself never changes."""

    def __init__(self, base: Base, shelf: Shelf | None = None) -> None:
        self.base = base
        self.shelf = Shelf() if shelf is None else shelf
        self.bank = Bank(base, frozen=True)

    def __repr__(self) -> str:
        compute = compute_name(self.base.compute_dtype)
        return f"LoadedBase({self.base.name!r}, compute={compute!r}, adapters={self.bank.names()})"

    def load_adapter(self, adapter: str | Path | Adapter, *, any_base: bool = False) -> Proof:
        """Make an adapter resident: a name on the shelf, a folder in PEFT's format, or an `Adapter`.

        It is proven live first: every key matches, and a probe's logits move. Warns if it was trained on another chat
        template. `any_base` accepts an adapter that was trained on another base. Raises AdapterError.
        """
        if isinstance(adapter, str):
            adapter = self.shelf.load(adapter)
        elif isinstance(adapter, Path):
            adapter = read_adapter(adapter)
        proof = prove(self.base, adapter, any_base=any_base)
        self._warn_of_template(adapter)
        self.bank.add(adapter, any_base=any_base)
        return proof

    def _warn_of_template(self, adapter: Adapter) -> None:
        if adapter.card.template_hash not in (None, self.base.template.hash):
            told = f"adapter {adapter.name!r} was trained on another chat template than {self.base.name} has now"
            warnings.warn(told, stacklevel=3)

    def encode_prompt(self, prompt: Prompt, *, raw: bool = False, system_prompt: str | None = None) -> tuple[int, ...]:
        """Token ids of a prompt: chat messages, or a string, which becomes a user's message.

        `system_prompt` is put before messages that have none of their own. With `raw`, `prompt` must be a string; it is
        encoded without the template, behind the tokens with which the tokenizer begins a text.
        """
        return encode_prompt(self.base.template, prompt, raw=raw, system_prompt=system_prompt)

    def stream(
        self,
        prompts: Sequence[Prompt],
        adapters: Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> Iterator[Piece]:
        """Like `generate`, but yields pieces of text as soon as later tokens cannot change them."""
        return stream(self.base, self.bank, self._requests(prompts, adapters, sampling, raw=raw, as_trained=as_trained))

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapters: Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> list[Completion]:
        """Answer all prompts in one batch, each with its own adapter (None: the plain base).

        A chat without a system message gets the system prompt that its adapter was trained with; with `as_trained`
        false, the default of the base's template. Adapters that are not resident yet are loaded from the shelf.
        Raises AdapterError, SettingError.
        """
        return generate(
            self.base, self.bank, self._requests(prompts, adapters, sampling, raw=raw, as_trained=as_trained)
        )

    def _requests(
        self,
        prompts: Sequence[Prompt],
        adapters: Sequence[str | None] | None,
        sampling: Sampling | Sequence[Sampling] | None,
        *,
        raw: bool,
        as_trained: bool,
    ) -> list[Request]:
        if isinstance(prompts, str):
            raise SettingError("prompts is one string; give a list of prompts")
        names = [None] * len(prompts) if adapters is None else list(adapters)
        if sampling is None:
            sampling = Sampling()
        wishes = list(sampling) if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        if not len(prompts) == len(names) == len(wishes):
            raise SettingError(f"{len(prompts)} prompts, {len(names)} adapters, {len(wishes)} samplings: one of each")
        for name in dict.fromkeys(names):
            if name is not None and name not in self.bank.names():
                self.load_adapter(name)
        systems = [self.bank.system_prompt(name) if as_trained else None for name in names]
        encoded = [self.encode_prompt(p, raw=raw, system_prompt=s) for p, s in zip(prompts, systems, strict=True)]
        return [Request(tokens, name, wish) for tokens, name, wish in zip(encoded, names, wishes, strict=True)]

    def read(
        self,
        data: str | Path,
        *,
        raw: bool = False,
        max_row_tokens: int = 2048,
        rows: int | None = None,
        seed: int = 0,
    ) -> Corpus:
        """Rows of a file or hub id, encoded for this base; with `rows`, a sample of that size. Raises DataError."""
        return read_corpus(data, self.base.template, raw=raw, max_tokens=max_row_tokens, rows=rows, seed=seed)

    def train(
        self,
        data: str | Path | Corpus,
        name: str,
        *,
        held_out: str | Path | Corpus | None = None,
        recipe: Recipe | None = None,
        watch: Watch | None = None,
        execution: Execution | None = None,
        raw: bool = False,
        resume: bool = False,
        overwrite: bool = False,
        on_step: Callable[[StepReport], None] | None = None,
        memory_bytes: int | None = None,
        on_plan: Callable[[Plan], None] | None = None,
        plan: Plan | None = None,
        from_adapter: str | Path | Adapter | None = None,
    ) -> RunResult:
        """Train one adapter on rows, put it on the shelf under `name`, and make it resident.

        `held_out`: rows to watch the run with. None sets a twentieth of the rows aside (at most 200), none below 320.
        `resume`: go on with the unfinished run of that name, in its threads and its compute type; a base that is loaded
        in another type is refused.
        `from_adapter`: a name on the shelf, a folder or an `Adapter` to go on from. Its rank, alpha, targets, layers
        and variant are kept. Under the same `name` the shelf gets a new version.
        `memory_bytes`: fields of `execution` that are None are chosen so that the process stays inside it.
        `plan`: made beforehand for the same rows, recipe and memory, in place of `memory_bytes`.
        `on_plan` gets the plan before the first step, `on_step` a report of each step; `on_step=print` shows them.
        Nothing is printed otherwise.

        Ctrl-C, or interrupting a notebook's kernel, saves the run after the current step and raises
        RunInterruptedError. Warns of fields that are not read, of too few rows or steps, and of held-out rows that are
        also learned.
        Raises DataError, TrainingError, SettingError, AdapterError.
        """
        recipe = Recipe() if recipe is None else recipe
        watch = Watch() if watch is None else watch
        execution = Execution() if execution is None else execution
        parent: Adapter | None = None
        if from_adapter is not None:
            parent = self._parent(from_adapter, name, resume=resume)
            recipe = recipe_from(parent, self.base.config, recipe)
        if resume:
            resumed_compute(runs_dir() / name, compute_name(self.base.compute_dtype))
        elif not overwrite:
            require_free(name, self.shelf, parent)
        data, watched = rows_of_run(
            self.base.template, self.base.config, data, held_out=held_out, recipe=recipe, raw=raw, parent=parent
        )
        if plan is None:
            if resume:
                watch, execution = resumed(name, watch, execution)
            plan = plan_run(
                self.base,
                data,
                watched,
                recipe=recipe,
                watch=watch,
                execution=execution,
                memory_bytes=memory_bytes,
                keep_passes=resume,
            )
        if on_plan:
            on_plan(plan)
        seen = [found.text for found in (unread_fields(data.unread), shared_tools(data.rows)) if found is not None]
        for told in (*seen, *plan.workload.warnings):
            warnings.warn(told, stacklevel=2)
        overwrite = overwrite and not resume
        run = new_run(
            self.base,
            data,
            name,
            held_out=watched,
            recipe=recipe,
            watch=plan.chosen.watch,
            execution=plan.chosen.execution,
            overwrite=overwrite,
            forecast=plan.forecast,
            parent=parent,
        )
        result = run.run(resume=resume, on_step=on_step, keep=self.shelf.save)
        self.load_adapter(result.adapter)
        return result

    def _parent(self, adapter: str | Path | Adapter, run: str, *, resume: bool) -> Adapter:
        """The adapter that a run goes on from. Raises AdapterError if it is of another base."""
        if isinstance(adapter, str):
            adapter = find_parent(adapter, self.shelf, run=run, resume=resume)
        elif isinstance(adapter, Path):
            adapter = read_adapter(adapter)
        check_base(self.base, adapter)
        self._warn_of_template(adapter)
        return adapter

    def test_set(self, name: str, data: str | Path | Corpus, *, as_trained: bool = True) -> TestSet:
        """Rows of a file, or an encoded corpus, as a test set for `evaluate`.

        Rows without a system message get the system prompt that each adapter was trained with, unless `as_trained` is
        false. Raises DataError.
        """
        corpus = data if isinstance(data, Corpus) else self.read(data)
        require_fit(corpus, self.base.config)
        made = make_test_set(self.base, name, corpus.examples, corpus.alternatives)
        return replace(made, corpus=corpus) if as_trained else made

    def evaluate(
        self, adapters: Sequence[str | None], tests: Sequence[TestSet], *, on_rows: Callable[[int], None] | None = None
    ) -> list[Score]:
        """Scores of every adapter (None: the plain base) on every test set, which `test_set(name, file)` makes.

        `on_rows(count)` reports rows that are scored.
        """
        for name in adapters:
            if name is not None and name not in self.bank.names():
                self.load_adapter(name)
        return [s for test in tests for s in evaluate_as_trained(self.base, self.bank, adapters, test, on_rows=on_rows)]
