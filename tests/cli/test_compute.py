"""--compute: the type to multiply in, on every command that runs a base."""

import json

import pytest
from commands import commands
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.cli import app
from kameleon.errors import SettingError
from kameleon.ops import COMPUTE_TYPES, choose_compute_type

# The first needs the template alone, the other subtracts stored weights: neither multiplies with the base.
RUN_NO_BASE = {"data check", "adapter extract"}


def test_every_command_that_runs_a_base_has_compute():
    of_bases = {name: names for name, names in commands(app) if "--base" in names}
    assert len(of_bases) >= 13
    assert {name for name, names in of_bases.items() if "--compute" not in names} == RUN_NO_BASE


@pytest.fixture
def other():
    """The type that this machine does not take by itself."""
    return "fp32" if choose_compute_type().name == "bf16" else "bf16"


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "rows.jsonl"),
        ("chat",),
        ("adapter", "verify", "mine"),
        ("adapter", "merge", "mine", "--out", "merged"),
        ("adapter", "export", "mine", "--to", "mlx", "--out", "mlx"),
        ("adapter", "import", "peft", "--name", "again"),
    ],
    ids=" ".join,
)
def test_a_type_that_is_asked_for_is_computed_in(run, tiny, tiny_folder, tmp_path, monkeypatch, other, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
    made = [{"prompt": f"{i}?", "completion": f"{i + 1}"} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    adapter = random_adapter(tiny.base, "mine")
    Shelf().save(adapter)
    write_adapter(adapter, tmp_path / "peft")
    status, _, err = run(*words, "--base", tiny_folder, "--compute", other)
    assert status == 0, err
    assert f"computing in {other}: asked for" in err


def test_a_plan_is_made_for_the_type_that_is_asked_for(run, tiny_folder, monkeypatch, other):
    planned = []

    def calibrate(header, rank, variant, targets, dtype, tokens):
        planned.append(dtype)
        raise SettingError("enough seen")

    monkeypatch.setattr("kameleon.plan.planner.calibrate", calibrate)
    run("plan", "--base", tiny_folder, "--compute", other)
    assert planned == [COMPUTE_TYPES[other]]


@pytest.mark.parametrize(
    "words", [("export", "mine", "--out", "there"), ("import", "there", "--name", "new")], ids=["export", "import"]
)
def test_a_type_for_a_base_that_is_not_run_is_refused(run, tiny, words):
    Shelf().save(random_adapter(tiny.base, "mine"))
    status, _, err = run("adapter", *words, "--compute", "fp32")
    assert status == 2
    assert "--compute fp32 is for a base that is run" in err


def test_a_type_that_there_is_not_is_told_with_those_that_there_are(run):
    status, _, err = run("chat", "--compute", "int8")
    assert status == 2
    assert "bf16" in err
    assert "fp32" in err
