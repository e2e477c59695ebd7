"""A training run from its first step to its adapter: schedule, step, look, save."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kameleon.adapters import Adapter, Card
from kameleon.adapters.formats import read_adapter, write_adapter
from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.data import Example, pack, require_trainable, sample
from kameleon.errors import AdapterFileError, CheckpointError, NonFiniteLossError, RunInterruptedError, TrainingError
from kameleon.home import discard
from kameleon.machine import peak_bytes
from kameleon.ops import compute_name, kernels
from kameleon.settings import Execution, Recipe, Watch
from kameleon.training.checkpoint import (
    FORMAT,
    Progress,
    load_checkpoint,
    remove_checkpoint,
    require_no_checkpoint,
    resumed_threads,
    save_checkpoint,
)
from kameleon.training.interrupt import StopRequest
from kameleon.training.log import RunLog, first_and_last_loss, points
from kameleon.training.losses import mean_loss
from kameleon.training.recipe import learning_rate_of, recorded, settled
from kameleon.training.report import Forecast, RunResult, StepReport
from kameleon.training.schedule import Schedule, learning_rate_at, look_is_due
from kameleon.training.step import StepResult, train_step
from kameleon.training.trainee import Trainee, fresh_adapter


class Run:
    """One training run in a folder of its own: log, checkpoint, and the best adapter so far."""

    def __init__(
        self,
        base: Base,
        folder: Path,
        card: Card,
        name: str,
        *,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        recipe: Recipe,
        watch: Watch,
        execution: Execution,
        overwrite: bool = False,
        forecast: Forecast | None = None,
        parent: Adapter | None = None,
    ) -> None:
        require_trainable(examples)
        self.base, self.folder, self.card, self.name = base, folder, card, name
        self.overwrite = overwrite
        self.examples, self.watch, self.execution = examples, watch, execution
        self.held_out = tuple(sample(held_out, watch.eval_rows, seed=recipe.seed))
        self.forecast = forecast
        self.schedule = Schedule.of(recipe, len(examples))
        self.recipe = settled(recipe, base.config, self.schedule)
        self._learning_rate = learning_rate_of(recipe, base.config)
        self._step_s = self._look_s = 0.0  # of the last step and look; expected ones before the first; 0: unknown
        self.bank = Bank(base)
        start = (
            fresh_adapter(base, name, self.recipe, card) if parent is None else replace(parent, name=name, card=card)
        )
        self.bank.add(start)
        self.trainees = [Trainee(self.bank, name, self.recipe)]

    @property
    def _slot(self) -> int:
        return self.trainees[0].slot

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a resumed run must share with its beginning, so that its bits are the same."""
        return {
            "format": FORMAT,
            **recorded(self.recipe),
            "base": self.base.fingerprint,
            "data": self.card.data,
            "from": [parent.fingerprint for parent in self.card.parents],
            "compute": compute_name(self.base.compute_dtype),
            "threads": torch.get_num_threads(),
            "kernels": kernels().level,
            "steps": self.schedule.steps,
            "eval_every": 0 if self.watch.eval_every is None else self.watch.eval_every,
            "eval_rows": len(self.held_out),
            "held_out": hashlib.sha256(repr(self.held_out).encode()).hexdigest(),
            "patience": self.watch.patience,
            "micro_batch_tokens": self.execution.pass_tokens,
        }

    def run(
        self,
        *,
        resume: bool = False,
        on_step: Callable[[StepReport], None] | None = None,
        keep: Callable[[Adapter], object] = lambda adapter: None,
    ) -> RunResult:
        """Train to the end, or until patience runs out. The checkpoint stays until `keep` has the adapter.

        With `resume`, go on from the folder's checkpoint to the same bits as a run that was never interrupted, with as
        many threads as it had.
        Raises TrainingError when the folder holds an unfinished run and `resume` is false, or when another process
        trains in it, RunInterruptedError after Ctrl-C (the state is saved), NonFiniteLossError, CheckpointError.
        """
        with self._alone(), resumed_threads(self.folder) if resume else nullcontext():
            progress, result = self._run(on_step, resume=resume)
            try:
                keep(result.adapter)
            except (AdapterFileError, OSError) as error:
                save_checkpoint(self.folder, self.trainees, progress, self.identity)
                raise CheckpointError(
                    f"{error}; the run is saved in {self.folder}: make room, then the same again with "
                    "`resume=True` keeps the adapter"
                ) from error
            remove_checkpoint(self.folder)
            return result

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder: two runs in it would mix their logs, checkpoints and best adapters."""
        path = self.folder.with_name(f".{self.folder.name}.lock")  # beside the folder, which may be deleted
        lock = FileLock(path, timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise TrainingError(
                f"another process trains in {self.folder}: let it end, or train under another name"
            ) from None
        except OSError as error:
            raise CheckpointError(f"the run's folder {self.folder} cannot be written: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def _run(self, on_step: Callable[[StepReport], None] | None, *, resume: bool) -> tuple[Progress, RunResult]:
        progress = self._begin(resume=resume)
        log = RunLog(self.folder, progress.step)
        saved_at, started = time.perf_counter(), time.perf_counter() - progress.seconds
        if progress.step:
            self._step_s = progress.seconds / progress.step
        elif self.forecast:
            self._step_s = self.forecast.seconds_per_step
        over = self._is_over(progress)
        try:
            with StopRequest() as stop:
                while not over and not self._out_of_patience(progress):
                    before = progress
                    result, lr = self._step(before)
                    progress = replace(
                        before,
                        step=before.step + 1,
                        tokens=before.tokens + result.tokens,
                        seconds=time.perf_counter() - started,
                    )
                    self._step_s = progress.seconds - before.seconds
                    over = self._is_over(progress)
                    eval_loss = None
                    if self._look_is_due(before, progress, over=over):
                        progress, eval_loss = self._look(progress)
                        self._look_s = time.perf_counter() - started - progress.seconds
                        progress = replace(progress, seconds=progress.seconds + self._look_s)
                    self._report(log, progress, result, eval_loss, lr, on_step, over=over)
                    if stop.made or time.perf_counter() - saved_at >= self.watch.save_every_s:
                        save_checkpoint(self.folder, self.trainees, progress, self.identity)
                        self._drop_other_bests(progress)
                        saved_at = time.perf_counter()
                    if stop.made:
                        raise RunInterruptedError(
                            f"stopped after step {progress.step} of {self._expected_steps(progress)}; all is saved in "
                            f"{self.folder}: the same again with `resume=True` goes on"
                        )
            if self.held_out and progress.looked_step < progress.step:  # resumed when its minutes were spent
                progress, eval_loss = self._look(progress)
                progress = replace(progress, seconds=time.perf_counter() - started)
                log.write({"step": progress.step, "eval_loss": eval_loss, "seconds": round(progress.seconds, 3)})
            log.write({"step": progress.step, **self._compared(progress)})
        finally:
            log.close()
        self._drop_other_bests(progress)
        return progress, self._result(progress, stopped_early=not over)

    def _begin(self, *, resume: bool) -> Progress:
        """Where the run stands now: at its last checkpoint if it is resumed, else at step 0."""
        if self.overwrite and self.folder.exists():
            discard(self.folder)
        progress = Progress()
        if resume:
            progress = load_checkpoint(self.folder, self.trainees, self.identity)
            for trainee in self.trainees:
                self.bank.renew(trainee.name)
        else:
            require_no_checkpoint(self.folder)
        self._drop_other_bests(progress)
        return progress

    def _step(self, progress: Progress) -> tuple[StepResult, float]:
        step, seconds = progress.step, progress.seconds
        before, after = self.schedule.share(step, seconds), self.schedule.share(step + 1, seconds + self._step_s)
        lr = learning_rate_at(before, after, peak=self._learning_rate, warmup=self.recipe.warmup)
        rows = [self.examples[row] for row in self.schedule.rows_of(step)]
        passes = pack(rows, self.execution.pass_tokens, adapter=self._slot)
        [result] = train_step(
            self.base,
            self.bank,
            self.trainees,
            passes,
            learning_rates=[lr],
            checkpoint_layers=self.execution.recomputed_layers,
        )
        return result, lr

    def _is_over(self, progress: Progress) -> bool:
        """Whether all steps are made, or one more step and a last look would exceed the run's time."""
        if self.schedule.allowed_s is None or not progress.step:
            return progress.step >= self.schedule.steps
        look_s = self._look_s
        if not look_s:  # forward alone is a third of a step's work
            look_tokens = sum(len(example.tokens) for example in self.held_out)
            look_s = self._step_s / 3 * look_tokens / (progress.tokens / progress.step)
        next_s = progress.seconds + self._step_s + look_s
        return progress.step >= self.schedule.steps or next_s > self.schedule.allowed_s

    def _expected_steps(self, progress: Progress) -> int:
        """An estimate of the steps of the whole run."""
        return round(progress.step / self.schedule.share(progress.step, progress.seconds))

    def _look(self, progress: Progress) -> tuple[Progress, float]:
        """Measure the held-out loss. A new best adapter is written to disk at once."""
        size = self.execution.pass_tokens
        loss = held_out_loss(self.base, self.bank, slot=self._slot, examples=self.held_out, micro_batch_tokens=size)
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss on the held-out rows is {loss} after step {progress.step}: the learning rate "
                f"{self._learning_rate:.2g} may be too high: try a third of it"
            )
        progress = replace(progress, looked_step=progress.step)
        if progress.best_loss is not None and loss >= progress.best_loss:
            return replace(progress, looks_without_best=progress.looks_without_best + 1), loss
        progress = replace(progress, best_loss=loss, best_step=progress.step, looks_without_best=0)
        write_adapter(self.trainees[0].resident.snapshot(self.card), self._best(progress))
        return progress, loss

    def _best(self, progress: Progress) -> Path:
        """Each best has its own folder: the best that a checkpoint names stays until the next checkpoint."""
        return self.folder / f"best-{progress.best_step}"

    def _drop_other_bests(self, progress: Progress) -> None:
        for path in self.folder.glob("best*"):
            if path != self._best(progress):
                discard(path)

    def _look_is_due(self, before: Progress, after: Progress, *, over: bool) -> bool:
        if not self.held_out:
            return False
        if self.watch.eval_every is not None:
            return over or after.step % self.watch.eval_every == 0
        shares = (self.schedule.share(one.step, one.seconds) for one in (before, after))
        return over or look_is_due(*shares)

    def _out_of_patience(self, progress: Progress) -> bool:
        return 0 < self.watch.patience <= progress.looks_without_best

    def _report(
        self,
        log: RunLog,
        progress: Progress,
        result: StepResult,
        eval_loss: float | None,
        lr: float,
        on_step: Callable[[StepReport], None] | None,
        *,
        over: bool,
    ) -> None:
        speed = progress.tokens / progress.seconds
        record = {
            "step": progress.step,
            "loss": result.loss,
            "learning_rate": lr,
            "grad_norm": result.grad_norm,
            "tokens": result.tokens,
            "trained_tokens": result.trained_tokens,
            "tokens_per_s": round(speed, 1),
            "peak_bytes": peak_bytes(),
            "seconds": round(progress.seconds, 3),
        }
        log.write(record if eval_loss is None else {**record, "eval_loss": eval_loss})
        if on_step:
            total = progress.step if over else max(progress.step + 1, self._expected_steps(progress))
            left = progress.seconds / progress.step * (total - progress.step)
            on_step(StepReport(progress.step, total, result.loss, eval_loss, speed, left))

    def _compared(self, progress: Progress) -> dict[str, Any]:
        """Peak memory and seconds, and the plan's figures for the steps that were made."""
        actual = {"peak_bytes": peak_bytes(), "seconds": round(progress.seconds, 3)}
        if self.forecast is None:
            return actual
        seconds = round(self.forecast.seconds_per_step * progress.step, 3)
        return {**actual, "predicted": {"peak_bytes": self.forecast.peak_bytes, "seconds": seconds}}

    def _result(self, progress: Progress, *, stopped_early: bool) -> RunResult:
        best = read_adapter(self._best(progress)) if progress.best_loss is not None else None
        scores = (
            {} if progress.best_loss is None else {"eval_loss": progress.best_loss, "best_step": progress.best_step}
        )
        compared = self._compared(progress)
        made = {"steps": progress.step, "visits": self.schedule.visited(progress.step), "tokens": progress.tokens}
        recipe = {**recorded(self.recipe), **made, **compared}
        card = replace(self.card, recipe=recipe, scores=scores)
        adapter = self.trainees[0].resident.snapshot(card) if best is None else replace(best, name=self.name, card=card)
        first_loss, last_loss = first_and_last_loss(self.folder)
        return RunResult(
            adapter,
            progress.step,
            progress.tokens,
            progress.seconds,
            progress.best_loss,
            progress.best_step,
            stopped_early=stopped_early,
            peak_bytes=compared["peak_bytes"],
            first_loss=first_loss,
            last_loss=last_loss,
            predicted=compared.get("predicted", {}),
            losses=points(self.folder, "loss"),
            looks=points(self.folder, "eval_loss"),
        )


def held_out_loss(base: Base, bank: Bank, *, slot: int, examples: Sequence[Example], micro_batch_tokens: int) -> float:
    """Mean loss over the trained tokens of `examples`, in nats."""
    return mean_loss(base.decoder, bank, pack(examples, micro_batch_tokens, adapter=slot))
