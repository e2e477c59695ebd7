"""kameleon train as a command: what it says before and after, and what the shelf then holds."""

import json

import pytest

from kameleon import Recipe, api
from kameleon.adapters import Shelf


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What comes after {i}?", "completion": f"{i + 1}."} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(run, tiny_folder, rows):
    def command(*words):
        return run("train", "--data", rows, "--base", tiny_folder, "--rank", 2, "--rows-per-step", 8, *words)

    return command


def test_a_sample_of_the_rows_is_told_and_stands_in_the_card(train):
    status, _, said = train("--name", "few", "--rows", 20)
    assert status == 0 and "20 of 60 rows" in said
    data = Shelf().load("few").card.data
    assert data["of_rows"] == 60 and data["rows"] < 20  # some are held out
    status, _, said = train("--name", "all", "--rows", 99)
    assert status == 0 and "all 60 rows, fewer than 99" in said


def test_a_sample_of_no_rows_is_refused(train):
    status, _, said = train("--name", "none", "--rows", 0)
    assert status == 2 and "rows is 0; it must be at least 1" in said


def test_a_plan_is_made_for_the_sample(tiny_folder, rows, monkeypatch):
    monkeypatch.setattr(api, "make_plan", lambda header, workload, recipe, watch, *_: workload(watch))
    whole, few = (api.plan(str(tiny_folder), rows, Recipe(rows=n, rows_per_step=1)) for n in (None, 20))
    assert few.steps <= 20 < whole.steps
    assert api.plan(str(tiny_folder), None, Recipe(rows=20, rows_per_step=1)).steps == 20
