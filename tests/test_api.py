"""What a person in a notebook sees: the last value of a cell, and how a run is watched, interrupted and resumed."""

import json
import os
import re
import signal

import pytest

from kameleon import LoadedBase, Recipe
from kameleon.errors import RunInterruptedError, SettingError

QUICK = Recipe(rank=2, learning_rate=1e-2, epochs=3)


@pytest.fixture
def loaded(tiny):
    """A bank of its own: what is resident is part of what is shown."""
    return LoadedBase(tiny.base)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_what_a_cell_ends_with_is_shown_in_a_few_lines_without_rows_or_numbers(loaded, rows):
    plans = []
    result = loaded.train(rows, "mine", recipe=QUICK, on_plan=plans.append)
    corpus = loaded.read(rows)
    test = loaded.test_set("rows", rows)
    assert test.examples == corpus.examples
    factors = next(iter(result.adapter.modules.values()))
    shown = [loaded, loaded.base, result, result.adapter, factors, corpus, test, *plans, loaded.load_adapter("mine")]
    for value in shown:
        text = repr(value)
        assert len(text) < 300 and text.count("\n") < 3 and "tensor(" not in text and "Example(" not in text, text
    assert repr(loaded).endswith("adapters=['mine'])")
    assert re.match(r"Adapter\(name='mine', base='.*', modules=21, rank=2, parameters=[\d,]+\)", repr(result.adapter))


def test_a_result_shows_that_a_run_learned_where_no_rows_are_held_out(loaded, rows):
    losses = []
    result = loaded.train(rows, "mine", recipe=QUICK, on_step=lambda report: losses.append(report.loss))
    assert result.best_loss is None and len(losses) == 30
    assert result.first_loss == losses[0]
    assert result.last_loss == pytest.approx(sum(losses[-3:]) / 3)
    assert result.last_loss < result.first_loss


def test_an_interrupted_cell_says_in_python_how_to_go_on_and_resume_does(loaded, rows):
    losses = []

    def interrupt(report):
        losses.append(report.loss)
        if report.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError, match=r"after step 5 of 30; .*`resume=True` goes on"):
        loaded.train(rows, "mine", recipe=QUICK, on_step=interrupt)
    result = loaded.train(rows, "mine", recipe=QUICK, resume=True)
    assert result.steps == 30
    assert result.first_loss == losses[0]


def test_a_taken_name_says_in_python_how_to_replace_it(loaded, rows):
    loaded.train(rows, "mine", recipe=QUICK)
    with pytest.raises(SettingError, match=r"`overwrite=True`"):
        loaded.train(rows, "mine", recipe=QUICK)
