"""A budget of minutes, on a clock of the test's own."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from training.counting import write_rows

from kameleon import Recipe, Watch
from kameleon.adapters.formats import read_adapter
from kameleon.errors import CheckpointError, RunInterruptedError, SettingError
from kameleon.home import runs_dir
from kameleon.training import loop, read_log
from kameleon.weights.seal import UNSEALED, seal

RECIPE = Recipe(rank=2, rows_per_step=4, learning_rate=1e-2, epochs=50, minutes=2)


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 28)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a step and a look take; each may be changed between steps."""
    clock = SimpleNamespace(now=0.0, step_s=8.0, look_s=4.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    for name, cost in (("train_step", "step_s"), ("held_out_loss", "look_s")):
        whole = getattr(loop, name)

        def slow(*arguments, whole=whole, cost=cost, **named):
            clock.now += getattr(clock, cost)
            return whole(*arguments, **named)

        monkeypatch.setattr(loop, name, slow)
    return clock


def train(tiny, rows, recipe=RECIPE, reports=None, **more):
    corpus, watch = tiny.read(rows), Watch(patience=0)
    hear = print if reports is None else reports.append
    taught, watched = corpus.pick(range(4, 28)), corpus.pick(range(4))
    return tiny.train(taught, "law", held_out=watched, recipe=recipe, watch=watch, on_step=hear, **more)


def test_a_run_ends_within_its_minutes_with_a_look_and_a_low_learning_rate(tiny, rows, clock):
    reports = []
    result = train(tiny, rows, reports=reports)
    assert 120 - 8 - 4 < clock.now == result.seconds <= 120
    assert not result.stopped_early
    assert reports[-1].eval_loss is not None and (reports[-1].total_steps, reports[-1].seconds_left) == (
        result.steps,
        0,
    )
    assert sum(report.eval_loss is not None for report in reports) in (7, 8)
    rates = [record["learning_rate"] for record in read_log(runs_dir() / "law") if "loss" in record]
    assert rates[1:] == sorted(rates[1:], reverse=True) and 1e-3 <= rates[-1] < 3e-3 < 9e-3 < rates[1]


def test_a_machine_that_gets_busy_makes_fewer_steps_not_more_minutes(tiny, rows, clock):
    reports = []

    class Busy(list):
        def append(self, report):
            super().append(report)
            if report.step == 5:
                clock.step_s, clock.look_s = 25.0, 8.0

    reports = Busy()
    result = train(tiny, rows, reports=reports)
    assert result.seconds <= 120 and result.steps < 9
    assert [report.total_steps for report in reports[3:]] == sorted((r.total_steps for r in reports[3:]), reverse=True)
    assert reports[4].seconds_left == pytest.approx(120 - reports[4].step * 8 - 2 * 4, rel=0.15)
    assert read_log(runs_dir() / "law")[-2]["learning_rate"] < 4e-3


def test_minutes_that_are_more_than_needed_change_no_bit(tiny, rows, clock):
    recipe = replace(RECIPE, epochs=1)
    first = train(tiny, rows, recipe)
    assert first.steps == 6
    whole = train(tiny, rows, replace(recipe, minutes=None), overwrite=True)
    assert first.adapter.fingerprint == whole.adapter.fingerprint


def test_a_resumed_run_goes_on_within_the_same_minutes(tiny, rows, clock):
    def interrupt(report):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError, match=r"after step 4 of 1\d"):
        train(tiny, rows, reports=SimpleNamespace(append=interrupt))
    clock.now += 1000  # between the two
    with pytest.raises(CheckpointError, match=r"minutes: was 2, is 3"):
        train(tiny, rows, replace(RECIPE, minutes=3), resume=True)
    result = train(tiny, rows, resume=True)
    assert 100 < result.seconds <= 120
    records = [record for record in read_log(runs_dir() / "law") if "loss" in record]
    assert [record["step"] for record in records] == list(range(1, result.steps + 1))
    rates = [record["learning_rate"] for record in records]
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_a_single_step_is_made_however_few_the_minutes(tiny, rows, clock):
    result = train(tiny, rows, replace(RECIPE, minutes=0.01))
    assert result.steps == 1 and result.best_loss is not None


def test_no_minutes_are_refused():
    with pytest.raises(SettingError, match="minutes is 0; it must be above 0"):
        Recipe(minutes=0)


def test_the_best_of_a_lost_continuation_is_not_taken_for_that_of_the_checkpoint(tiny, rows, clock, monkeypatch):
    """The machine stops behind a new best that no checkpoint knows; the resumed run, slower, looks elsewhere."""
    losses, bests = [3.0, 1.0], []
    monkeypatch.setattr(loop, "held_out_loss", lambda *_, **__: losses.pop(0) if losses else 5.0)
    folder = runs_dir() / "law"

    class StopsError(Exception):
        pass

    def stop(report):
        if report.eval_loss == 3.0:
            bests.append(read_adapter(next(folder.glob("best*"))).fingerprint)
            os.kill(os.getpid(), signal.SIGINT)
        if report.eval_loss == 1.0:
            raise StopsError

    with pytest.raises(RunInterruptedError):
        train(tiny, rows, reports=SimpleNamespace(append=stop))
    with pytest.raises(StopsError):
        train(tiny, rows, reports=SimpleNamespace(append=stop), resume=True)
    clock.step_s = 30.0
    result = train(tiny, rows, resume=True)
    assert (result.best_loss, result.adapter.card.scores["eval_loss"]) == (3.0, 3.0)
    assert result.adapter.fingerprint == bests[0]
    assert len(list(folder.glob("best*"))) == 1


def test_a_run_that_is_resumed_when_its_minutes_are_spent_looks_before_it_ends(tiny, rows, clock):
    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        train(tiny, rows, reports=SimpleNamespace(append=interrupt))
    save = runs_dir() / "law" / "checkpoint.safetensors"
    with safe_open(save, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["progress"] = json.dumps({**json.loads(metadata["progress"]), "seconds": 119.0})
    save_file(tensors, save, metadata | UNSEALED)
    with save.open("r+b") as file:
        seal(file)
    result = train(tiny, rows, resume=True)
    assert result.steps == result.best_step == 3 and result.best_loss is not None
    assert read_log(runs_dir() / "law")[-2]["eval_loss"] == result.best_loss
    assert not result.stopped_early
