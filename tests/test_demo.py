"""What the demo does with its time and after Ctrl-C, and what it prints from the report of a whole run."""

import json
import os
import runpy
import signal
from pathlib import Path

import pytest

from kameleon import Recipe
from kameleon.errors import RunInterruptedError
from kameleon.home import runs_dir
from kameleon.training import checkpoint, loop, read_log

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo(monkeypatch):
    folder = ROOT / "examples" / "demo"
    monkeypatch.syspath_prepend(folder)
    return runpy.run_path(str(folder / "run.py"))


@pytest.fixture
def task(demo, tmp_path):
    """A task whose rows are in `tmp_path`, as the medicine rows of the demo are."""
    rows = [{"prompt": f"{i}?", "completion": f"{i}."} for i in range(72)]
    path = tmp_path / "data" / "medicine" / "train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return demo["Task"]("medicine", 1, 100, Recipe(rank=2, epochs=1, rows_per_step=4, layers=1))


def test_an_interrupted_task_goes_on_from_its_last_step_within_its_minutes(demo, task, tiny, tmp_path, monkeypatch):
    steps = []
    step = loop.train_step

    def interrupted_once(*arguments, **named):
        steps.append(len(steps))
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments, **named)

    monkeypatch.setattr(loop, "train_step", interrupted_once)
    with pytest.raises(RunInterruptedError):
        demo["train"](tiny, task, tmp_path, demo["Clock"](), 0.5)
    demo["train"](tiny, task, tmp_path, demo["Clock"](), 0.1)
    assert len(steps) == (72 - 32) // 4
    recipe = tiny.shelf.load("medicine").card.recipe
    assert recipe["minutes"] == pytest.approx(0.5 * (840 - 150) / 60, abs=0.2) and recipe["visits"] == 40
    assert [record["step"] for record in read_log(runs_dir() / "medicine") if "loss" in record] == list(range(1, 11))
    clock = demo["Clock"]()
    demo["train"](tiny, task, tmp_path, clock, 0.1)
    assert len(steps) == 10 and clock.left_s < 840 - recipe["seconds"]


def test_a_task_whose_checkpoint_is_another_run_begins_anew(demo, task, tiny, tmp_path):
    def interrupt(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        tiny.train(tmp_path / "data" / "medicine" / "train.jsonl", "medicine", recipe=Recipe(rank=2), on_step=interrupt)
    demo["train"](tiny, task, tmp_path, demo["Clock"](), 0.1)
    assert tiny.shelf.load("medicine").card.recipe["steps"] == 10


@pytest.mark.parametrize("fault", ["another Kameleon's checkpoint", "no log"])
def test_a_task_goes_on_from_all_that_an_earlier_one_left(demo, task, tiny, tmp_path, monkeypatch, fault):
    def interrupt(*given, **named):
        os.kill(os.getpid(), signal.SIGINT)
        return loop_step(*given, **named)

    loop_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", interrupt)
    with pytest.raises(RunInterruptedError):
        demo["train"](tiny, task, tmp_path, demo["Clock"](), 0.5)
    monkeypatch.setattr(loop, "train_step", loop_step)
    if fault == "no log":
        (runs_dir() / "medicine" / "log.jsonl").write_text("")
    else:
        monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    demo["train"](tiny, task, tmp_path, demo["Clock"](), 0.1)
    assert tiny.shelf.load("medicine").card.recipe["steps"] == 10


@pytest.mark.parametrize("how", [RunInterruptedError("stopped after step 3"), KeyboardInterrupt()])
def test_ctrl_c_says_that_make_demo_goes_on(demo, monkeypatch, capsys, how):
    def interrupted(*_):
        raise how

    monkeypatch.setitem(demo["start"].__globals__, "main", interrupted)
    with pytest.raises(SystemExit) as end:
        demo["start"]([])
    assert end.value.code == 130
    assert ": make demo again goes on" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_adapter_in_80_columns(demo, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    report = json.loads((ROOT / "benchmarks" / "demo_report.json").read_text())
    demo["print_report"](report)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["adapter", "base", "law", "medicine", "code", "polish"]
    assert "0.720 · 0.23" in lines[2]
