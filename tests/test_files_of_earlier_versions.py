"""Adapters, checkpoints and caches that earlier versions wrote are read as they were meant."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kameleon
from kameleon import Sampling, Shelf

VERSIONS = sorted(path for path in Path(__file__).with_name("files_of_earlier_versions").iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def files(request, tmp_path, monkeypatch):
    """A copy of one version's files, which is also the home and the working folder."""
    folder = tmp_path / "files"
    shutil.copytree(request.param, folder)
    monkeypatch.setenv("KAMELEON_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    return folder


def answer(loaded, adapter):
    return loaded.generate(["What comes after 4?"], [adapter], sampling=Sampling(max_tokens=12, temperature=0))[0].text


def test_adapters_of_every_format_have_the_same_numbers_and_answers(files, run):
    expected = json.loads(Path("expected.json").read_text())
    loaded = kameleon.load("base", dtype=torch.float32)
    assert [loaded.base.fingerprint, answer(loaded, None)] == expected.pop("the base")
    del expected["the base in NF4"]
    for path in ("adapter.gguf", "mlx", "peft", "peft-dora", "peft-rslora", "peft-ends"):
        status, _, err = run("adapter", "import", path, "--name", path.removesuffix(".gguf"), "--base", "base")
        assert status == 0, err
    shelf = Shelf()
    assert set(shelf.names()) == expected.keys()
    assert {name: [shelf.load(name).fingerprint, answer(loaded, name)] for name in expected} == expected


def test_cards_versions_and_their_order_are_kept(files):
    shelf = Shelf()
    assert shelf.load("shelved").card.system_prompt is None
    shelf.rollback("shelved")
    card = shelf.load("shelved").card
    assert card.system_prompt == "Be brief."
    assert (card.base_id, card.data, len(shelf.history("shelved"))) == ("base", shelf.load("whole").card.data, 2)


def test_the_nf4_cache_is_used_as_it_is(files):
    [packed] = (files / "home" / "cache" / "nf4").glob("*.safetensors")
    before = packed.stat()
    told = []
    loaded = kameleon.load("base", torch.float32, quantize="nf4", on_progress=lambda what, *_: told.append(what))
    assert [loaded.base.fingerprint, answer(loaded, None)] == json.loads(Path("expected.json").read_text())[
        "the base in NF4"
    ]
    assert "packing to NF4" not in told and packed.stat().st_mtime_ns == before.st_mtime_ns


def test_an_interrupted_run_goes_on_to_the_adapter_that_it_would_have_become(files):
    """In a process of its own: a run only goes on with the kernels that it began with, and this one began with none."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RESUME],
        env=os.environ | {"KAMELEON_NATIVE": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    resumed, whole = (load_file(f"home/adapters/{name}/0001/adapter_model.safetensors") for name in ("half", "whole"))
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():  # a learning rate of 0.01: one step more or less moves numbers by up to 0.01
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-4)
    log = [json.loads(line) for line in Path("home/runs/half/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 9))


RESUME = """
import torch, kameleon
torch.set_num_threads(1)
recipe = kameleon.Recipe(rank=2, rows_per_step=3, epochs=2.0, learning_rate=0.01, seed=3)
kameleon.load("base", torch.float32).train("rows.jsonl", "half", recipe=recipe, resume=True)
"""
