"""kameleon train as a command: its output before and after a run, and the adapter on the shelf."""

import json

import pytest

from kameleon import Recipe, unloaded
from kameleon.adapters import Shelf
from kameleon.cli.settings import zeros_to_none
from kameleon.home import runs_dir
from kameleon.plan import planner
from kameleon.plan.calibration import Line, Rates

FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "2", "--learning-rate", "0.01")


@pytest.fixture
def different_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What comes after {i}?", "completion": f"{i + 1}."} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(run, tiny_folder, different_rows, monkeypatch):
    rates = Rates(Line(0, 1e-4), Line(0, 1e-4), 0.0, 0.0, 0.0, Line(0, 0.0), Line(0, 0.0), 100, 0.0)
    monkeypatch.setattr(planner, "calibrate", lambda *_: rates)  # as if it were measured, which takes seconds

    def command(*words):
        return run("train", "--data", different_rows, "--base", tiny_folder, "--rank", 2, *words)

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


def test_a_plan_is_made_for_the_sample(tiny_folder, different_rows, monkeypatch):
    monkeypatch.setattr(
        unloaded, "make_plan", lambda header, workload, **given: workload(given["watch"], given["execution"])
    )
    whole, few = (unloaded.plan(str(tiny_folder), different_rows, recipe=Recipe(rows=n)) for n in (None, 20))
    assert (few.schedule.rows, whole.schedule.rows) == (20, 60)
    assert unloaded.plan(str(tiny_folder), None, recipe=Recipe(rows=20)).schedule.rows == 20


def test_train_then_list_show_verify_eval_and_remove(on_tiny, rows):
    status, out, err = on_tiny("train", "--data", rows, "--name", "count", *FAST, "--json")
    assert status == 0
    trained = json.loads(out)
    assert trained["steps"] == 8
    assert trained["curve"].endswith("loss.png")
    assert "settings: you chose: rank 2, learning_rate 0.01, epochs 2, rows_per_step 8; all, with" in err
    listed = json.loads(on_tiny("adapter", "list", "--json", base=False)[1])
    assert [entry["name"] for entry in listed] == ["count"]
    assert json.loads(on_tiny("adapter", "show", "count", "--json", base=False)[1])["ranks"] == [2]
    status, out, _ = on_tiny("adapter", "verify", "count", "--json")
    assert status == 0
    assert json.loads(out)["live"] is True
    status, out, _ = on_tiny("eval", f"numbers={rows}", "--adapters", "count", "--json")
    document = json.loads(out)
    assert [(row["adapter"], row["testset"]) for row in document["rows"]] == [("base", "numbers"), ("count", "numbers")]
    assert {"loss", "exact_match", "choice_accuracy", "bits_per_byte"} <= document["rows"][0].keys()
    assert document["rows"][1]["loss"] < document["rows"][0]["loss"]
    assert set(document["forgetting"]) == {"count"}
    assert on_tiny("adapter", "remove", "count", "--yes", base=False)[0] == 0
    assert json.loads(on_tiny("adapter", "list", "--json", base=False)[1]) == []


def test_a_curve_that_cannot_be_written_spoils_no_result(on_tiny, rows):
    curve = runs_dir() / "count" / "loss.png"
    curve.mkdir(parents=True)
    status, out, err = on_tiny("train", "--data", rows, "--name", "count", *FAST, "--json")
    assert status == 0
    assert json.loads(out)["curve"] is None
    assert "no loss curve: [Errno 21] Is a directory" in err


def test_settings_come_from_toml_and_flags_win(on_tiny, rows, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'[train]\ndata = "{rows}"\nname = "count"\nrank = 3\nepochs = 0.5\ncheckpoint_layers = 2\n', "utf-8-sig"
    )
    status, _, err = on_tiny("train", "--config", config, "--rank", "2", "--checkpoint-layers", "0")
    assert status == 0, err
    assert "checkpoint_layers 0" in " ".join(err.split())
    assert json.loads(on_tiny("adapter", "show", "count", "--json", base=False)[1])["ranks"] == [2]
    for text in ("rank = 3\n", "[trian]\nrank = 3\n"):
        config.write_text(text)
        status, _, err = on_tiny("train", "--config", config, "--data", rows, "--name", "other")
        assert status == 2
        assert "outside of its table [train]" in " ".join(err.split())
    config.write_text("[train]\nrnk = 3\n")
    for given in (["--config", config], [f"--config={config}"]):
        status, _, err = on_tiny("train", *given, "--data", rows, "--name", "other")
        assert status == 2
        assert "rnk" in err


def test_a_0_on_the_command_line_or_in_toml_means_that_the_value_is_derived(on_tiny, rows, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[train]\nlayers = 1\nlearning_rate = 0\neval-every = 0\n")
    words = ("--config", config, "--data", rows, "--rank", "2", "--epochs", "0.2", "--rows-per-step", "8")
    status, _, err = on_tiny("train", *words, "--name", "zero", "--layers", "0")
    assert status == 0, err
    recipe = Shelf().load("zero").card.recipe
    assert recipe["layers"] == 0 and len(Shelf().load("zero").modules) == 7 * 3
    assert recipe["learning_rate"] == 0.0073  # what a base of 64 numbers a token derives
    assert on_tiny("train", *words, "--name", "one")[0] == 0
    assert Shelf().load("one").card.recipe["layers"] == 1 and len(Shelf().load("one").modules) == 7


def test_only_flags_whose_0_means_derived_are_changed():
    words = ["train", "--layers", "0", "--learning-rate=0.0", "--rank", "0", "--seed=0", "--kv-cache-bytes", "0", "0"]
    changed = [
        "train",
        "--layers",
        "none",
        "--learning-rate=none",
        "--rank",
        "0",
        "--seed=0",
        "--kv-cache-bytes",
        "none",
    ]
    assert zeros_to_none(words) == [*changed, "0"]


@pytest.mark.parametrize("text", [None, "[train\n", "\xff"])
def test_a_config_that_cannot_be_read_is_one_line(on_tiny, rows, tmp_path, text):
    config = tmp_path / "run.toml"
    if text is not None:
        config.write_text(text, encoding="latin-1")
    status, out, err = on_tiny("train", "--config", config, "--data", rows, "--name", "other")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "run.toml cannot be read: " in line
    assert "Traceback" not in err
