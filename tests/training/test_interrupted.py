"""Kills, Ctrl-C, full disks and damaged files: a run goes on to the same bits, or says what is wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny import reference_model
from training.counting import card_of, write_rows

from kameleon import Reading, Recipe, Watch
from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.adapters.proof import PROBE, probe_logits
from kameleon.adapters.resident import weight_norms
from kameleon.errors import (
    AdapterFileError,
    CheckpointError,
    RunInterruptedError,
    TrainingError,
)
from kameleon.home import runs_dir
from kameleon.training import read_log
from kameleon.training.checkpoint import has_checkpoint
from kameleon.training.log import LOG_FILE, RunLog
from kameleon.training.trainee import fresh_adapter

RECIPE = Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=3)


SCRIPT = """
import os, signal, sys, threading, torch, kameleon
from kameleon import Reading, Recipe, Watch
torch.set_num_threads(1)
base, rows, resume, end = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", int(sys.argv[4])
loaded = kameleon.load(base, dtype=torch.float32)
killer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL))  # somewhere in the step or its checkpoint
rows = loaded.read(rows)
loaded.train(rows.pick(range(38)), "run", held_out=rows.pick((38, 39)),
             recipe=Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=12),
             watch=Watch(save_every_s=0.0, eval_every=5), resume=resume,
             on_step=lambda r: r.step == end and killer.start())
"""


def run_script(base, rows, home, mode, kill_at=0):
    """It kills itself, since from outside a slow machine may be too late."""
    environment = {**os.environ, "KAMELEON_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, str(base), str(rows), mode, str(kill_at)]
    return subprocess.run(command, env=environment, check=False).returncode


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_final_bits(tiny_folder, rows, tmp_path):
    assert run_script(tiny_folder, rows, tmp_path / "whole", "start") == 0
    killed = tmp_path / "killed"
    assert run_script(tiny_folder, rows, killed, "start", kill_at=17) == -signal.SIGKILL
    assert not (killed / "adapters" / "run").exists()
    assert run_script(tiny_folder, rows, killed, "resume", kill_at=60) == -signal.SIGKILL
    assert run_script(tiny_folder, rows, killed, "resume") == 0
    homes = killed, tmp_path / "whole"
    files = [Shelf(home / "adapters").path("run") / "adapter_model.safetensors" for home in homes]
    assert files[0].read_bytes() == files[1].read_bytes()
    keys = ("step", "loss", "grad_norm", "learning_rate")
    logs = [[{k: r[k] for k in keys} for r in read_log(home / "runs" / "run") if "loss" in r] for home in homes]
    assert logs[0] == logs[1]


def test_a_run_whose_adapter_could_not_be_kept_goes_on_from_its_checkpoint(tiny, rows, monkeypatch):
    def full(adapter):
        raise AdapterFileError("No space left on device")

    recipe, watch = replace(RECIPE, epochs=1), Watch(save_every_s=0.0)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="No space left on device"):
        patch.setattr(tiny.shelf, "save", full)
        tiny.train(rows, "count", recipe=recipe, watch=watch)
    steps = []
    tiny.train(rows, "count", recipe=recipe, watch=watch, resume=True, on_step=steps.append)
    assert not steps
    assert tiny.shelf.names() == ["count"]
    assert not has_checkpoint(runs_dir() / "count")


def test_ctrl_c_saves_and_says_how_to_go_on(tiny, rows):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it

    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError, match=r"after step 3 of 30.*`resume=True`"):
        tiny.train(rows, "count", recipe=RECIPE, on_step=interrupt)
    with pytest.raises(TrainingError, match=r"unfinished run: `resume=True` goes on.*`overwrite=True` drops it"):
        tiny.train(rows, "count", recipe=RECIPE)
    steps = []
    tiny.train(rows, "count", recipe=RECIPE, resume=True, on_step=lambda r: steps.append(r.step))
    assert steps == list(range(4, 31))
    assert signal.getsignal(signal.SIGINT) is before


def test_two_runs_of_one_name_at_a_time_are_refused_and_the_first_goes_on(tiny, rows):
    def another(report):
        for more in ({}, {"overwrite": True}):
            with pytest.raises(TrainingError, match=r"another process trains in .*count"):
                tiny.train(rows, "count", recipe=replace(RECIPE, rank=2), **more)
        with pytest.raises(TrainingError, match="another process trains and has saved nothing yet"):
            tiny.train(rows, "count", recipe=replace(RECIPE, rank=2), resume=True)

    recipe = replace(RECIPE, epochs=0.2)
    result = tiny.train(rows, "count", recipe=recipe, on_step=another)
    assert len(read_log(runs_dir() / "count")) == result.steps + 1
    assert tiny.shelf.load("count").card.recipe["rank"] == 4


def test_dora_starts_as_the_base_learns_resumes_and_says_the_same_in_peft(tiny, rows, tmp_path):
    recipe = replace(RECIPE, variant="dora", epochs=1)
    plain, live = probe_logits(tiny.base, fresh_adapter(tiny.base, "x", recipe, card_of(tiny)))
    assert torch.equal(plain, live)
    seen = []
    whole = tiny.train(rows, "whole", recipe=recipe, on_step=seen.append).adapter
    assert seen[-1].loss < 0.9 * seen[0].loss
    moved = [f.magnitude - weight_norms(tiny.base, name) for name, f in whole.modules.items()]
    assert all(change.abs().max() > 1e-4 for change in moved)

    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "parts", recipe=recipe, on_step=interrupt)
    assert tiny.train(rows, "parts", recipe=recipe, resume=True).adapter.fingerprint == whole.fingerprint
    write_adapter(whole, tmp_path / "peft")
    _, ours = probe_logits(tiny.base, whole)
    tokens = torch.tensor([tiny.base.tokenizer.encode(PROBE, add_special_tokens=False)])
    with torch.inference_mode():
        theirs = PeftModel.from_pretrained(reference_model("llama tied"), tmp_path / "peft").eval()(tokens).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_resuming_another_run_is_refused_naming_the_difference(tiny, rows):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "count", recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(CheckpointError, match=r"rank: was 4, is 8"):
        tiny.train(rows, "count", recipe=replace(RECIPE, rank=8), resume=True)
    write_rows(rows, 44)
    with pytest.raises(
        CheckpointError, match=r"the data has other bytes: was .*rows.jsonl with sha256 \w{12}…, is .* with "
    ):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)


def test_a_run_goes_on_with_the_same_bytes_wherever_the_files_lie(tiny, rows, watched, tmp_path, monkeypatch):
    def stop(report):
        os.kill(os.getpid(), signal.SIGINT)

    recipe = replace(RECIPE, epochs=0.5)
    whole = tiny.train(rows, "whole", held_out=watched, recipe=recipe).adapter
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunInterruptedError):
        tiny.train(str(rows), "parts", held_out=str(watched), recipe=recipe, on_step=stop)
    with pytest.raises(RunInterruptedError):
        tiny.train(rows.name, "parts", held_out=f"./{watched.name}", recipe=recipe, resume=True, on_step=stop)
    moved, aside = rows.rename(tmp_path / "moved.jsonl"), watched.rename(tmp_path / "aside.jsonl")
    with pytest.raises(CheckpointError, match=r"columns of the data: was None, is \['prompt', None\]"):
        tiny.train(moved, "parts", recipe=recipe, resume=True, reading=Reading(prompt_column="prompt"))
    resumed = tiny.train(moved, "parts", held_out=aside, recipe=recipe, resume=True).adapter
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.card.data["path"] == moved.name


def test_resuming_with_other_held_out_rows_is_refused(tiny, rows, watched):
    with pytest.raises(RunInterruptedError):
        tiny.train(
            rows, "count", held_out=watched, recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT)
        )
    watched.write_text(watched.read_text().replace("row 44", "row 99"))
    with pytest.raises(CheckpointError, match=r"\(the held-out rows are others\)"):
        tiny.train(rows, "count", held_out=watched, recipe=RECIPE, resume=True)


def test_a_damaged_checkpoint_is_named(tiny, rows):
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "count", recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))
    path = runs_dir() / "count" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is damaged: its tensors end at byte"):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_is_intact(tiny, rows, monkeypatch):
    real, calls = os.fsync, []

    def full_after_four(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # of the log and three checkpoints
            raise OSError(28, "No space left on device")
        real(descriptor)

    with (
        monkeypatch.context() as patch,
        pytest.raises(CheckpointError, match=r"step 4 .*the one before it is intact.*No space left"),
    ):
        patch.setattr(os, "fsync", full_after_four)
        tiny.train(rows, "count", recipe=RECIPE, watch=Watch(save_every_s=0.0, eval_every=100))
    folder = runs_dir() / "count"
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        assert file.metadata()["updates"] == "3"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path):
    log = RunLog(tmp_path, 0)
    with (tmp_path / LOG_FILE).open() as readable:  # stands for a disk that takes no more, again when it is closed
        os.dup2(readable.fileno(), log._file.fileno())
    with pytest.raises(CheckpointError, match="cannot write the run's log"):
        log.write({"step": 1})
    log.close()


def test_an_adapter_that_the_disk_does_not_take_is_kept_when_the_run_is_resumed(tiny, rows, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"No space left.*make room.*resume=True"):
        patch.setattr("kameleon.adapters.Shelf.save", full)
        tiny.train(rows, "count", recipe=RECIPE)
    assert tiny.train(rows, "count", recipe=RECIPE, resume=True).steps > 0
    assert tiny.shelf.has("count")
