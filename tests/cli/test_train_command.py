"""kameleon train as a command: what it says before and after, and what the shelf then holds."""

import json

import pytest

from kameleon import Recipe, unloaded
from kameleon.adapters import Shelf
from kameleon.plan import planner
from kameleon.plan.calibration import Line, Rates


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What comes after {i}?", "completion": f"{i + 1}."} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(run, tiny_folder, rows, monkeypatch):
    rates = Rates(Line(0, 1e-4), Line(0, 1e-4), 0.0, 0.0, 0.0, Line(0, 0.0), Line(0, 0.0), 100, 0.0)
    monkeypatch.setattr(planner, "calibrate", lambda *_: rates)  # as if it were measured, which takes seconds

    def command(*words):
        return run("train", "--data", rows, "--base", tiny_folder, "--rank", 2, *words)

    return command


def test_a_sample_of_the_rows_is_told_and_stands_in_the_card(train):
    status, _, said = train("--name", "few", "--rows", 20)
    assert status == 0 and "20 of 60 rows" in said
    data = Shelf().load("few").card.data
    assert (data["rows"], data["of_rows"]) == (20, 60)
    status, _, said = train("--name", "all", "--rows", 99)
    assert status == 0 and "all 60 rows, fewer than 99" in said


def test_minutes_are_told_with_what_fits_into_them(train):
    status, _, said = train("--name", "timed", "--rows-per-step", 1, "--minutes", 0.02)
    assert status == 0 and "0.02 minutes are" in said and "steps" in said
    recipe = Shelf().load("timed").card.recipe
    assert recipe["minutes"] == 0.02 and recipe["visits"] == recipe["steps"]


def test_a_sample_of_no_rows_is_refused(train):
    status, _, said = train("--name", "none", "--rows", 0)
    assert status == 2 and "rows is 0; it must be from 1 to 1000000000, or None (all)" in said


def test_a_plan_is_made_for_the_sample(tiny_folder, rows, monkeypatch):
    monkeypatch.setattr(unloaded, "make_plan", lambda header, workload, recipe, watch, *_: workload(watch))
    whole, few = (unloaded.plan(str(tiny_folder), rows, Recipe(rows=n)) for n in (None, 20))
    assert (few.schedule.rows, whole.schedule.rows) == (20, 60)
    assert unloaded.plan(str(tiny_folder), None, Recipe(rows=20)).schedule.rows == 20
