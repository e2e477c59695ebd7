"""A base in memory and what a person does with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

import torch

from kameleon.adapters import Adapter, Proof, Shelf, prove
from kameleon.adapters.fit import check_base
from kameleon.adapters.formats import read_adapter
from kameleon.adapters.resident import Bank
from kameleon.api.progress import bar
from kameleon.api.prompts import Prompt, encode_prompt, listed, one_for_each
from kameleon.api.runs import new_run, plan_run
from kameleon.arguments import checked
from kameleon.bases import Base, load_base
from kameleon.data import Checkup, Corpus, Data, check_rows, fitting, read_corpus, shared_tools
from kameleon.errors import WrongTypeError
from kameleon.evaluation import Scores, TestSet, evaluate_as_trained, make_test_set
from kameleon.generation import Completion, Piece, Request, Sampling, generate, stream
from kameleon.home import runs_dir
from kameleon.home_format import open_home
from kameleon.ops import compute_name
from kameleon.plan import Plan
from kameleon.settings import Execution, Reading
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
from kameleon.unloaded import date_of_run, resumed, rows_of_run
from kameleon.words import came


@checked()
def load(
    ref: str | Path = "smollm2",
    dtype: torch.dtype | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    quantize: Literal["nf4"] | None = None,
    progress: bool = True,
) -> LoadedBase:
    """The base that `ref` names, ready for adapters: "smollm2", a folder, a `.gguf` file or a Hugging Face id.

    `dtype` is torch.bfloat16 or torch.float32; None takes bf16 if this machine has units for it, else fp32.
    `on_progress(what, done, total)` reports fetching and loading; without it a terminal and a notebook show a bar, if
    `progress` is true. `quantize` "nf4" packs the matrices of a folder in Hugging Face layout to 4 bits, once, into the
    cache. Raises BaseModelError, SettingError.
    """
    open_home()
    with bar(shown=progress and on_progress is None) as move:
        return LoadedBase(load_base(str(ref), dtype, on_progress=on_progress or move, quantize=quantize))


class LoadedBase:
    """A frozen base and the adapters resident beside it. The base itself never changes."""

    def __init__(self, base: Base, shelf: Shelf | None = None) -> None:
        self.base = base
        self.shelf = Shelf() if shelf is None else shelf
        self.bank = Bank(base, frozen=True)

    def __repr__(self) -> str:
        compute = compute_name(self.base.compute_dtype)
        return f"LoadedBase({self.base.name!r}, compute={compute!r}, adapters={self.bank.names()})"

    @checked()
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
            warnings.warn(told, stacklevel=4)

    @checked(apart=["prompt"])
    def encode_prompt(self, prompt: Prompt, *, raw: bool = False, system_prompt: str | None = None) -> tuple[int, ...]:
        """Token ids of a prompt: chat messages, or a string, which becomes a user's message.

        `system_prompt` is put before messages that have none of their own. With `raw`, `prompt` must be a string; it is
        encoded without the template, behind the tokens with which the tokenizer begins a text.
        """
        return encode_prompt(self.base.template, prompt, raw=raw, system_prompt=system_prompt)

    @checked(apart=["prompts"])
    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        adapters: str | Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> Iterator[Piece]:
        """Like `generate`, but yields pieces of text as soon as later tokens cannot change them."""
        asked, _ = listed(prompts)
        return stream(self.base, self.bank, self._requests(asked, adapters, sampling, raw=raw, as_trained=as_trained))

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload] (a string is a sequence of strings)
        self,
        prompts: Prompt,
        adapters: str | Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        adapters: str | Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> list[Completion]: ...

    @checked(apart=["prompts"])
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        adapters: str | Sequence[str | None] | None = None,
        *,
        sampling: Sampling | Sequence[Sampling] | None = None,
        raw: bool = False,
        as_trained: bool = True,
    ) -> Completion | list[Completion]:
        """The answer to one prompt, or the answers to a list of prompts in their order, computed in one batch.

        A prompt is a string or a conversation in OpenAI's form, [{"role": "user", "content": "Hi"}]. `adapters` names
        one adapter for all prompts, or one for each in a list (None: the plain base); so does `sampling`.
        A chat without a system message gets the system prompt that its adapter was trained with; with `as_trained`
        false, the default of the base's template. Adapters that are not resident yet are loaded from the shelf.
        Raises AdapterError, SettingError, DataError.
        """
        asked, one = listed(prompts)
        requests = self._requests(asked, adapters, sampling, raw=raw, as_trained=as_trained)
        answers = generate(self.base, self.bank, requests)
        return answers[0] if one else answers

    def _requests(
        self,
        prompts: Sequence[Prompt],
        adapters: str | Sequence[str | None] | None,
        sampling: Sampling | Sequence[Sampling] | None,
        *,
        raw: bool,
        as_trained: bool,
    ) -> list[Request]:
        names = one_for_each(adapters, len(prompts), "adapters")
        wishes = one_for_each(Sampling() if sampling is None else sampling, len(prompts), "sampling")
        self._make_resident(names)
        systems = [self.bank.system_prompt(name) if as_trained else None for name in names]
        encoded = [self.encode_prompt(p, raw=raw, system_prompt=s) for p, s in zip(prompts, systems, strict=True)]
        return [Request(tokens, name, wish) for tokens, name, wish in zip(encoded, names, wishes, strict=True)]

    def _make_resident(self, names: Sequence[str | None]) -> None:
        for name in dict.fromkeys(names):
            if name is not None and name not in self.bank.names():
                self.load_adapter(name)

    @checked(apart=["data"])
    def read(
        self,
        data: Data,
        *,
        raw: bool = False,
        max_row_tokens: int = 2048,
        rows: int | None = None,
        seed: int = 0,
        reading: Reading | None = None,
    ) -> Corpus:
        """Rows of a file or hub id, encoded for this base; with `rows`, a sample of that size.

        `reading` says which columns are taken, and whether bad rows are skipped. Warns of what was guessed and of rows
        that are left out. Raises DataError.
        """
        template = self.base.template
        corpus = read_corpus(data, template, raw=raw, max_tokens=max_row_tokens, rows=rows, seed=seed, reading=reading)
        return fitting(corpus, self.base.config, skip_bad=True) if reading and reading.skip_bad else corpus

    @checked(apart=["data", "test"])
    def check(
        self,
        data: Data,
        *,
        test: Data | None = None,
        raw: bool = False,
        max_row_tokens: int = 2048,
        reading: Reading | None = None,
    ) -> Checkup:
        """What the data doctor finds in rows before they are learned; `test` are rows that must not be among them.

        Raises DataError for data that cannot be read at all.
        """
        template, config = self.base.template, self.base.config
        return check_rows(data, template, config, test=test, raw=raw, max_tokens=max_row_tokens, reading=reading)

    @checked(apart=["data", "held_out"])
    def train(
        self,
        data: Data | Corpus,
        name: str,
        *,
        held_out: Data | Corpus | None = None,
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
        reading: Reading | None = None,
        progress: bool = True,
    ) -> RunResult:
        """Train one adapter on rows, put it on the shelf under `name`, and make it resident.

        `held_out`: rows to watch the run with. None sets a twentieth of the rows aside (at most 200), none below 320.
        `resume`: go on with the unfinished run of that name, in its threads and its compute type; a base that is loaded
        in another type is refused.
        `from_adapter`: a name on the shelf, a folder or an `Adapter` to go on from. Its rank, alpha, targets, layers
        and variant are kept. Under the same `name` the shelf gets a new version.
        `reading`: how files are read; `Reading(skip_bad=True)` leaves bad rows out.
        `memory_bytes`: fields of `execution` that are None are chosen so that the process stays inside it.
        `plan`: made beforehand for the same rows, recipe and memory, in place of `memory_bytes`.
        `on_plan` gets the plan before the first step, `on_step` a report of each step; `on_step=print` shows them.
        `progress`: a terminal and a notebook show a bar if there is no `on_step`. Nothing is printed otherwise.

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
            self.base.template.on(date_of_run(name) if resume else None),
            self.base.config,
            data,
            held_out=held_out,
            recipe=recipe,
            raw=raw,
            parent=parent,
            reading=reading,
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
        tools = shared_tools(data.rows)
        for told in (*([] if tools is None else [tools.text]), *plan.workload.warnings):
            warnings.warn(told, stacklevel=3)
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
        with bar(shown=progress and on_step is None) as move:

            def tell(report: StepReport) -> None:
                move(f"training {name}, loss {report.loss:.3f}", report.step, report.total_steps)

            result = run.run(resume=resume, on_step=on_step or tell, keep=self.shelf.save)
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

    @checked(apart=["data"])
    def test_set(self, name: str, data: Data | Corpus, *, as_trained: bool = True) -> TestSet:
        """Rows of a file, or an encoded corpus, as a test set for `evaluate`.

        Rows without a system message get the system prompt that each adapter was trained with, unless `as_trained` is
        false. Raises DataError.
        """
        corpus = data if isinstance(data, Corpus) else self.read(data)
        corpus = fitting(corpus, self.base.config)
        made = make_test_set(self.base, name, corpus.examples, corpus.alternatives)
        return replace(made, corpus=corpus) if as_trained else made

    @checked(apart=["tests"])
    def evaluate(
        self,
        adapters: str | Sequence[str | None] | None,
        tests: TestSet | Data | Corpus | Sequence[TestSet],
        *,
        on_rows: Callable[[int], None] | None = None,
        progress: bool = True,
    ) -> Scores:
        """Scores of every adapter (None: the plain base) on every test set, which `test_set(name, rows)` makes.

        `tests` may also be the rows of one test set. `on_rows(count)` reports rows that are scored. With `progress`, a
        terminal and a notebook show a bar if there is no `on_rows`.
        """
        names = [adapters] if adapters is None or isinstance(adapters, str) else list(adapters)
        sets = self._test_sets(tests)
        self._make_resident(names)
        total, done = len(names) * sum(len(one.sequences) for one in sets), 0
        with bar(shown=progress and on_rows is None) as move:

            def count(rows: int) -> None:
                nonlocal done
                done += rows
                move("evaluating", done, total)

            told = count if on_rows is None else on_rows
            return Scores(
                score for test in sets for score in evaluate_as_trained(self.base, self.bank, names, test, on_rows=told)
            )

    def _test_sets(self, tests: TestSet | Data | Corpus | Sequence[TestSet]) -> list[TestSet]:
        if isinstance(tests, TestSet):
            return [tests]
        if isinstance(tests, list | tuple) and any(isinstance(one, TestSet) for one in tests):
            if wrong := [one for one in tests if not isinstance(one, TestSet)]:
                raise WrongTypeError(
                    f"tests holds {came(wrong[0])} beside test sets: make one with test_set(name, rows)"
                )
            return [one for one in tests if isinstance(one, TestSet)]
        name = Path(tests).stem if isinstance(tests, str | Path) else "rows"
        return [self.test_set(name, tests)]
