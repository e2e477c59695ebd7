"""What a plan says of a budget of minutes."""

from dataclasses import replace

import pytest
import torch

from kameleon import Execution, Recipe, Watch
from kameleon.plan import assumed_workload, common_header, make_plan, planner
from kameleon.plan.calibration import Line, Rates
from kameleon.plan.workload import Pass

RATES = Rates(Line(0, 1e-4), Line(0, 4e-4), 1e-5, 0.0, 0.0, Line(0, 1e-4), Line(0, 2e-4), 100, 0.0)


@pytest.fixture
def plan(monkeypatch):
    """A plan of 100 steps for `minutes`; a look at each of 64 held-out rows has so many tokens."""
    monkeypatch.setattr(planner, "calibrate", lambda *_: RATES)

    def make(minutes=None, look_tokens=0, watch=Watch(), **more):  # noqa: B008 (frozen)
        recipe = Recipe(rows_per_step=4, epochs=1, minutes=minutes)

        def work(watch, execution):
            whole, tokens = assumed_workload(100, 400, recipe, execution), look_tokens * watch.eval_rows
            look = (Pass(tokens, 0, tokens, 0),) if tokens else ()
            return replace(whole, look=look, looks=8 if tokens else 0, look_rows=watch.eval_rows)

        header = common_header("Llama 3.2 1B")
        given = {"recipe": recipe, "watch": watch, "execution": Execution(), "process_bytes": 0, **more}
        return make_plan(header, work, dtype=torch.bfloat16, **given)

    return make


def test_it_tells_how_much_of_the_run_fits(plan):
    whole = plan()
    minutes = whole.chosen.seconds / 60
    half = plan(minutes / 2)
    assert half.expected_steps == pytest.approx(50, abs=1) and half.expected_seconds == pytest.approx(minutes * 30)
    assert any("about 50 of 100 steps, 200 of 400 visits to rows" in reason for reason in half.why)
    assert half.forecast.seconds_per_step == pytest.approx(whole.forecast.seconds_per_step, rel=0.03)
    assert whole.expected_steps == 100 and whole.expected_seconds == whole.chosen.seconds


def test_minutes_that_are_too_few_are_a_warning_and_too_many_are_told(plan):
    minutes = plan().chosen.seconds / 60
    assert "too few steps: " in plan(minutes / 10).workload.warnings[-1]
    assert not plan(minutes / 2).workload.warnings
    assert any("more than needed: all 100 steps take about" in reason for reason in plan(minutes * 2).why)


def test_looks_take_a_fifth_of_the_minutes_at_most(plan):
    whole = plan(look_tokens=100)
    spent = 8 * whole.chosen.look_seconds
    roomy, tight, hopeless = (plan(spent * factor / 60, look_tokens=100) for factor in (6, 2, 0.5))
    assert roomy.chosen.watch.eval_rows == 64
    assert tight.chosen.watch.eval_rows == 25 and "eval_rows 25" in " ".join(tight.why)
    assert hopeless.chosen.watch.eval_rows == 0
    kept = plan(spent / 30, 100, Watch(eval_rows=50)).chosen.watch.eval_rows, plan(spent / 30, 100, keep_passes=True)
    assert kept[0] == 50 and kept[1].chosen.watch.eval_rows == 64
