"""A resumed run takes its checkpoint's compute type and threads, not those of this process."""

import datetime
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import CHATML
from training.counting import write_rows

import kameleon
from kameleon import Recipe
from kameleon.cli.flags import in_flags
from kameleon.errors import CheckpointError, RunInterruptedError, SettingError
from kameleon.home import runs_dir
from kameleon.ops import COMPUTE_TYPES
from kameleon.training.checkpoint import FORMAT, has_checkpoint
from kameleon.weights import read_safetensors_header
from kameleon.weights.seal import UNSEALED, seal

RECIPE = Recipe(rank=2, rows_per_step=4, learning_rate=1e-2)
FLAGS = ("--rank", "2", "--rows-per-step", "4", "--learning-rate", "0.01")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 20)


@pytest.fixture
def threads():
    """Set torch's number of threads; the former number comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def interrupt(loaded, rows):
    with pytest.raises(RunInterruptedError):
        loaded.train(rows, "run", recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))


def rewrite_identity(**changes):
    """Of the run's checkpoint; a key that becomes None is taken out."""
    path = runs_dir() / "run" / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    identity = {**json.loads(metadata["identity"]), **changes}
    metadata["identity"] = json.dumps({key: value for key, value in identity.items() if value is not None})
    save_file(tensors, path, {**metadata, **UNSEALED})
    with path.open("rb+") as file:
        seal(file)


def test_a_run_goes_on_with_the_threads_of_its_checkpoint_and_to_the_same_bits(tiny, rows, threads):
    threads(1)
    whole = tiny.train(rows, "whole", recipe=RECIPE).adapter
    interrupt(tiny, rows)
    threads(2)
    used = []
    with pytest.warns(UserWarning, match="goes on with as many threads as it began with: 1, not 2"):
        resumed = tiny.train(
            rows, "run", recipe=RECIPE, resume=True, on_step=lambda r: used.append(torch.get_num_threads())
        )
    assert set(used) == {1}
    assert torch.get_num_threads() == 2
    assert resumed.adapter.fingerprint == whole.fingerprint


def test_threads_come_back_after_a_run_that_cannot_go_on(tiny, rows, threads):
    threads(1)
    interrupt(tiny, rows)
    rewrite_identity(threads=2, rank=8)
    with (
        pytest.warns(UserWarning, match="began with: 2, not 1"),
        pytest.raises(CheckpointError, match="rank: was 8, is 2"),
    ):
        tiny.train(rows, "run", recipe=RECIPE, resume=True)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("compute", COMPUTE_TYPES)
def test_a_run_goes_on_in_the_type_of_its_checkpoint(run, tiny_folder, rows, compute):
    interrupt(kameleon.load(str(tiny_folder), dtype=COMPUTE_TYPES[compute]), rows)
    words = ("train", "--data", rows, "--name", "run", "--base", tiny_folder, *FLAGS, "--resume")
    (other,) = COMPUTE_TYPES.keys() - {compute}
    status, _, err = run(*words, "--compute", other)
    assert status == 2
    assert f"computes in {compute}, not in {other}: go on with --compute {compute}, or start" in err
    assert "computing in" not in err  # told before a base is loaded
    status, _, err = run(*words)
    assert status == 0, err
    assert f"computing in {compute}" in err
    assert not has_checkpoint(runs_dir() / "run")


@pytest.mark.parametrize("compute", COMPUTE_TYPES)
def test_a_budget_is_planned_in_the_type_of_the_checkpoint(run, tiny_folder, rows, monkeypatch, compute):
    interrupt(kameleon.load(str(tiny_folder), dtype=COMPUTE_TYPES[compute]), rows)
    planned = []

    def calibrate(header, rank, variant, targets, dtype, tokens):
        planned.append(dtype)
        raise SettingError("enough seen")

    monkeypatch.setattr("kameleon.plan.planner.calibrate", calibrate)
    words = ("train", "--data", rows, "--name", "run", "--base", tiny_folder, *FLAGS, "--resume", "--memory", "40GB")
    run(*words)
    assert planned == [COMPUTE_TYPES[compute]]


def test_a_base_in_another_type_than_the_checkpoint_is_told_how_to_load_it(tiny, tiny_folder, rows):
    interrupt(tiny, rows)
    loaded = kameleon.load(str(tiny_folder), dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"`dtype=torch.float32`, or start again"):
        loaded.train(rows, "run", recipe=RECIPE, resume=True)


@pytest.mark.parametrize(
    ("number", "which"), [(None, "an earlier"), (FORMAT - 1, "an earlier"), (FORMAT + 1, "a later")]
)
def test_a_checkpoint_of_another_kameleon_is_one_line_before_a_base_is_loaded(run, tiny, rows, number, which):
    interrupt(tiny, rows)
    rewrite_identity(format=number, compute="torch.float32", patience=None, novelty=1)
    wanted = f"this checkpoint was written by {which} Kameleon; start again with `overwrite=True`"
    with pytest.raises(CheckpointError) as error:
        tiny.train(rows, "run", recipe=RECIPE, resume=True)
    assert str(error.value) == wanted
    status, out, err = run("train", "--data", rows, "--name", "run", "--base", "nowhere", "--resume")
    assert (status, out, err) == (2, "", f"error: {in_flags(wanted)}\n")


@pytest.mark.parametrize("by", ["python", "command"])
def test_a_run_goes_on_with_the_date_of_its_beginning(run, tiny_folder, rows, monkeypatch, tmp_path, by):
    """Llama 3.2's template writes today's date; a run that goes on after midnight learns the same bits."""
    folder = tmp_path / "dated"
    shutil.copytree(tiny_folder, folder)
    dated = "{% if true %}<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n{% endif %}"
    (folder / "chat_template.jinja").write_text(dated + CHATML)
    monkeypatch.setattr("kameleon.text.template.today", lambda: datetime.date(2026, 11, 30))
    loaded = kameleon.load(str(folder), dtype=torch.float32)
    whole = loaded.train(rows, "whole", recipe=RECIPE).adapter
    assert whole.card.data["date"] == "2026-11-30"
    interrupt(loaded, rows)
    monkeypatch.setattr("kameleon.text.template.today", lambda: datetime.date(2026, 12, 1))
    if by == "python":
        loaded.train(rows, "run", recipe=RECIPE, resume=True)
    else:
        run("train", rows, "--name", "run", "--base", folder, "--compute", "fp32", "--resume", *FLAGS)
    resumed = loaded.shelf.load("run")
    assert resumed.card.data["date"] == "2026-11-30"
    assert all(torch.equal(resumed.modules[name].a, factors.a) for name, factors in whole.modules.items())
    assert loaded.train(rows, "later", recipe=RECIPE).adapter.card.data["date"] == "2026-12-01"


@pytest.mark.parametrize("part", ["updates", "identity", "weights", "mean", "square", "progress"])
def test_a_checkpoint_with_another_byte_anywhere_is_refused_with_what_to_do(tiny, rows, part):
    interrupt(tiny, rows)
    path = runs_dir() / "run" / "checkpoint.safetensors"
    data, header = bytearray(path.read_bytes()), read_safetensors_header(path)
    places = {tensor.name: tensor.offset + tensor.size_bytes // 2 for tensor in header.tensors}
    data[places[part] if part in places else data.index(f'"{part}": "'.encode()) + len(part) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged: .*start again with `overwrite=True`"):
        tiny.train(rows, "run", recipe=RECIPE, resume=True)
    assert tiny.train(rows, "run", recipe=RECIPE, overwrite=True).steps > 0
