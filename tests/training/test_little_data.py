"""Runs on few rows: enough steps by default, nothing lost to looks, and a word where it cannot be enough."""

import json
import os
import signal
import warnings
from dataclasses import replace

import pytest

from kameleon import Execution, Recipe, Watch
from kameleon.cli.settings import explain
from kameleon.data import pack, sample
from kameleon.errors import RunInterruptedError, SettingError
from kameleon.home import runs_dir
from kameleon.plan import workload_of
from kameleon.training import Schedule, draw_loss_curve, loop, read_log
from kameleon.training.schedule import derived_epochs, derived_rows_per_step

QUICK = Recipe(rank=2, layers=1, learning_rate=1e-2)


def write_rows(path, numbers):
    rows = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def write(tmp_path):
    return lambda numbers, name="rows.jsonl": write_rows(tmp_path / name, numbers)


@pytest.mark.parametrize("rows", [*range(30, 100, 7), 128, 200, 319, 320, 500, 999, 1000])
def test_few_rows_make_enough_steps_by_default(rows):
    schedule = Schedule.of(Recipe(), rows)
    assert 60 <= schedule.steps <= 250
    assert 1 <= schedule.epochs <= 10


def test_many_rows_are_seen_once_in_steps_of_sixteen():
    assert Schedule.of(Recipe(), 1300) == Schedule(1300, 1, 16, 0)


def test_what_is_given_is_kept_and_only_the_rest_derived():
    assert Schedule.of(Recipe(epochs=0.5, rows_per_step=7, seed=3), 60) == Schedule(60, 0.5, 7, 3)
    assert Schedule.of(Recipe(epochs=2), 60).rows_per_step == Schedule.of(Recipe(), 60).rows_per_step == 4
    assert Schedule.of(Recipe(rows_per_step=60), 60).epochs == Schedule.of(Recipe(), 60).epochs > 5


def test_nought_is_no_value_of_either():
    with pytest.raises(SettingError, match=r"epochs is 0; .* or None.*rows_per_step is 0; it must be from 1"):
        Recipe(epochs=0, rows_per_step=0)


def test_of_sixty_rows_all_are_learned_and_the_settled_numbers_stand_in_plan_log_and_card(tiny, write):
    plans, losses = [], []
    result = tiny.train(
        write(range(60)), "x", recipe=QUICK, on_plan=plans.append, on_step=lambda r: losses.append(r.loss)
    )
    (plan,) = plans
    card = tiny.shelf.load("x").card
    assert card.data["rows"] == plan.workload.schedule.rows == 60
    assert result.steps == len(losses) == plan.workload.steps == card.recipe["steps"] >= 100
    assert (card.recipe["rows_per_step"], card.recipe["epochs"]) == (plan.recipe.rows_per_step, plan.recipe.epochs)
    assert card.recipe["rows_per_step"] == 4 and card.recipe["epochs"] > 5
    assert result.best_loss is None and card.scores == {} and not result.stopped_early
    assert losses[-1] < 0.5 * losses[0]
    assert any(f"from the number of rows: 60 make {result.steps} steps" in why for why in plan.why)
    assert any("60 rows are too few to set some aside: all are learned" in why for why in plan.why)
    assert not any("eval_loss" in record for record in read_log(runs_dir() / "x"))
    assert draw_loss_curve(runs_dir() / "x", "x").exists()


def test_a_run_without_held_out_rows_resumes_to_the_same_bits(tiny, write):
    path, recipe = write(range(24)), replace(QUICK, epochs=2)
    whole = tiny.train(path, "whole", recipe=recipe).adapter

    def interrupt(report):
        if report.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        tiny.train(path, "parts", recipe=recipe, on_step=interrupt)
    assert tiny.train(path, "parts", recipe=recipe, resume=True).adapter.fingerprint == whole.fingerprint


def warned(tiny, *args, **more):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.train(*args, "x", **more)
    return [str(one.message) for one in caught]


def test_too_few_rows_or_steps_are_a_warning_that_says_what_to_do(tiny, write):
    few = warned(tiny, write(range(8)), recipe=replace(QUICK, epochs=1, rows_per_step=4))
    assert len(few) == 2
    assert few[0].startswith("too few rows (8)") and "write more" in few[0]
    assert few[1].startswith("too few steps (2)") and "fewer rows a step (rows_per_step is 4), more epochs" in few[1]
    assert warned(tiny, write(range(40)), recipe=QUICK, overwrite=True) == []


def test_held_out_rows_that_are_also_learned_are_counted_in_a_warning(tiny, write):
    learned, watched = write(range(40)), write(range(30, 60), "watched.jsonl")
    (told,) = warned(tiny, learned, held_out=watched, recipe=QUICK)
    assert told.startswith("10 of 30 held-out rows are also learned")


def test_a_few_held_out_rows_of_ones_own_are_too_few_to_choose_by(tiny, write):
    (told,) = warned(tiny, write(range(40)), held_out=write([50, 51], "watched.jsonl"), recipe=QUICK)
    assert told.startswith("too few held-out rows (2) to choose")


def test_equal_rows_on_one_side_are_told(tiny, write):
    plans = []
    path = write([*range(330), *range(330)])
    tiny.train(path, "x", recipe=replace(QUICK, epochs=0.01), on_plan=plans.append)
    assert any("660 rows (330 of them distinct): equal rows are all learned or all held out" in w for w in plans[0].why)
    assert not plans[0].workload.warnings or "also learned" not in "".join(plans[0].workload.warnings)


def test_a_look_sees_every_part_of_a_sorted_file(tiny, write, monkeypatch):
    """Of 400 rows of one task and 400 of another, with few rows to a look."""
    numbers = [*range(400), *range(10_000, 10_400)]
    corpus = tiny.read(write(numbers))
    looked = []
    monkeypatch.setattr(loop, "held_out_loss", lambda base, bank, *, examples, **_: looked.append(examples) or 1.0)
    watch = Watch(eval_rows=8)
    recipe = replace(QUICK, epochs=0.01)
    tiny.train(corpus, "x", recipe=recipe, watch=watch)
    parts = [example.row > 400 for example in looked[0]]
    assert len(parts) == 8 and 3 <= sum(parts) <= 5
    planned = workload_of(corpus.examples, corpus.examples, recipe, watch, Execution()).look
    seen = sample(corpus.examples, 8, seed=recipe.seed)
    packs = pack(seen, Execution().pass_tokens, adapter=0)
    assert sum(one.tokens for one in planned) == sum(p.segments.tokens for p in packs)


def test_the_help_of_epochs_and_rows_per_step_says_what_is_derived():
    told = {setting.name: setting.reason for setting in explain(Recipe(), Recipe())}
    assert "10 times up to 40 rows, fewer times for more, and once from 561 on" in told["epochs"]
    assert [derived_epochs(rows) for rows in (1, 40, 41, 560, 561, 10_000)] == [10, 10, 9, 2, 1, 1]
    assert "4 below 320 rows, 8 below 1,000, else 16" in told["rows_per_step"]
    assert [derived_rows_per_step(rows) for rows in (319, 320, 999, 1000)] == [4, 8, 8, 16]
