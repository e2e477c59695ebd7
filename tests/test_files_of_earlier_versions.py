"""Adapters, checkpoints and caches that earlier versions wrote are read as they were meant."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

import kameleon
from kameleon import Sampling, Shelf, read_adapter

FOLDER = Path(__file__).with_name("files_of_earlier_versions")
VERSIONS = sorted(path.parent for path in FOLDER.glob("*/expected.json"))
CARD_1 = FOLDER / "card-format-1"
IMPORTED = ("adapter.gguf", "mlx", "peft", "peft-dora", "peft-rslora", "peft-head", "peft-ends")


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def files(request, tmp_path, monkeypatch):
    """A copy of one version's files, which is also the home and the working folder."""
    folder = tmp_path / "files"
    shutil.copytree(request.param, folder)
    monkeypatch.setenv("KAMELEON_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    return folder


def read_json(path):
    return json.loads(Path(path).read_text())


def log_of(run):
    return [json.loads(line) for line in Path(f"home/runs/{run}/log.jsonl").read_text().splitlines()]


def check_answer(loaded, adapter, tokens, logprobs):
    """Greedy tokens are equal on every CPU; log-probabilities differ there by rounding alone, since fp32 sums do."""
    wish = Sampling(max_tokens=12, temperature=0, logprobs=1)
    [given] = loaded.generate(["What comes after 4?"], [adapter], sampling=wish)
    assert list(given.tokens) == tokens, adapter
    assert [score.logprob for score in given.scores] == pytest.approx(logprobs, abs=1e-4), adapter


def check_card(adapter, file):
    """Each field of the adapter's card is what the file says."""
    said = read_json(file)
    del said["format"], said["files"]
    card = adapter.card
    assert {key: getattr(card, key) for key in said} == {**said, "parents": tuple(said["parents"])}


def test_adapters_of_every_format_have_the_same_numbers_and_answers(files, run):
    expected = read_json("expected.json")
    del expected["the base in NF4"]
    loaded = kameleon.load("base", dtype=torch.float32)
    fingerprint, *answer = expected.pop("the base")
    assert loaded.base.fingerprint == fingerprint
    check_answer(loaded, None, *answer)
    for path in IMPORTED:
        status, _, err = run("adapter", "import", path, "--name", path.removesuffix(".gguf"), "--base", "base")
        assert status == 0, err
    shelf = Shelf()
    assert set(shelf.names()) == expected.keys()
    for name, (fingerprint, *answer) in expected.items():
        assert shelf.load(name).fingerprint == fingerprint, name
        check_answer(loaded, name, *answer)


@pytest.mark.parametrize("kind", ["dora", "rslora", "head"])
def test_variants_as_kameleon_wrote_them_are_those_that_peft_wrote(files, kind):
    adapter = read_adapter(Path(f"own-{kind}"), name="own")
    fingerprint, *answer = read_json("expected.json")[f"peft-{kind}"]
    assert adapter.fingerprint == fingerprint
    check_card(adapter, f"own-{kind}/kameleon.json")
    loaded = kameleon.load("base", dtype=torch.float32)
    loaded.load_adapter(adapter)
    check_answer(loaded, "own", *answer)


OF_BASE = ("base_model_name_or_path", "model", "base_hub_id", "base_licence", "format", "files")
"""Keys that hold a base's id, its licence, or hashes over those: earlier versions wrote a path or nothing there."""


def contents(path):
    """Bytes of a file; of JSON its values without `OF_BASE`, of a Modelfile all lines but that of the base."""
    if path.suffix == ".json":
        return {key: value for key, value in read_json(path).items() if key not in OF_BASE}
    return re.sub(rb"(?m)^FROM .*$", b"", path.read_bytes()) if path.name == "Modelfile" else path.read_bytes()


@pytest.mark.parametrize("kind", ["gguf", "mlx", "peft", "ollama"])
def test_exports_are_the_same_bytes(files, run, kind):
    path = Path("adapter.gguf" if kind == "gguf" else kind)
    words = () if kind == "peft" else ("--base", "base")
    status, _, err = run("adapter", "export", "whole", "--to", kind, "--out", f"again-{path}", *words)
    assert status == 0, err
    again = Path(f"again-{path}")
    for file in path.iterdir() if path.is_dir() else [path]:
        assert contents(again / file.name if path.is_dir() else again) == contents(file), file.name


def test_an_ollama_folder_holds_the_adapter(files, run):
    status, _, err = run("adapter", "import", "ollama/whole.gguf", "--name", "back", "--base", "base")
    assert status == 0, err
    assert Shelf().load("back").fingerprint == read_json("expected.json")["whole"][0]


def test_cards_versions_and_their_order_are_kept(files):
    shelf = Shelf()
    folder = Path("home/adapters/shelved")
    check_card(shelf.load("shelved"), folder / "0002" / "kameleon.json")
    assert shelf.load("shelved").card.system_prompt is None
    assert [(entry.version, entry.current) for entry in shelf.history("shelved")] == [(1, False), (2, True)]
    assert shelf.rollback("shelved") == 1
    check_card(shelf.load("shelved"), folder / "0001" / "kameleon.json")
    assert shelf.load("shelved").card.system_prompt == "Be brief."


@pytest.mark.parametrize("files", [FOLDER / "307a297"], indirect=True, ids=lambda path: path.name)
def test_a_card_of_format_1_has_no_system_prompt(files):
    adapter = read_adapter(CARD_1, name="old")
    assert adapter.fingerprint == "sha256:62aad45439078cdddfd5b42c60ceffe1fe608f7016125b79a7d0f1f52d3b6003"
    check_card(adapter, CARD_1 / "kameleon.json")
    assert adapter.card.system_prompt is None
    proof = kameleon.load("base", dtype=torch.float32).load_adapter(adapter)  # the card names this base
    assert (proof.live, proof.template_equal, proof.matched_modules) == (True, True, 1)


def test_a_noted_fingerprint_is_believed_while_the_file_is_the_same(files):
    """The note holds the file's time and inode, which a copy changes: as it lies here, it is out of date."""
    note, weights = Path("base/.model.safetensors.fingerprint.json"), Path("base/model.safetensors").stat()
    said = read_json(note)
    [[name, size, _, _]] = said["files"]
    assert (name, size) == ("model.safetensors", weights.st_size)
    marked = f"sha256:{'0' * 64}"
    note.write_text(
        json.dumps({"fingerprint": marked, "files": [[name, size, weights.st_mtime_ns, weights.st_ino]]}, indent=1)
    )
    assert kameleon.load("base", dtype=torch.float32).base.fingerprint == marked
    note.write_text(json.dumps(said))
    assert kameleon.load("base", dtype=torch.float32).base.fingerprint == said["fingerprint"]
    renewed = read_json(note)
    assert len(renewed.pop("sha256")) == 64  # of the note itself; earlier versions wrote none
    assert renewed == {**said, "files": [[name, size, weights.st_mtime_ns, weights.st_ino]]}


def test_a_base_that_was_pulled_is_found(files, run):
    """The home has no record of it: its file's name is the record."""
    pulled = files / "home" / "bases" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    pulled.parent.mkdir()
    pulled.write_bytes(b"GGUF")
    status, out, err = run("base", "list", "--json")
    assert status == 0, err
    assert [base["name"] for base in json.loads(out) if base["here"]] == ["smollm2"]


def test_the_nf4_cache_is_used_as_it_is(files):
    [packed] = (files / "home" / "cache" / "nf4").glob("*.safetensors")
    before = packed.stat()
    told = []
    loaded = kameleon.load("base", torch.float32, quantize="nf4", on_progress=lambda what, *_: told.append(what))
    fingerprint, *answer = read_json("expected.json")["the base in NF4"]
    assert loaded.base.fingerprint == fingerprint
    check_answer(loaded, None, *answer)
    assert "packing to NF4" not in told and packed.stat().st_mtime_ns == before.st_mtime_ns


def test_the_nf4_cache_is_packed_to_the_same_numbers(files):
    """Its header has a checksum beside them since."""
    [packed] = (files / "home" / "cache" / "nf4").glob("*.safetensors")
    before = load(packed.read_bytes())
    packed.unlink()
    kameleon.load("base", torch.float32, quantize="nf4")
    after = load_file(packed)
    assert after.keys() == before.keys() and all(after[name].equal(tensor) for name, tensor in before.items())


def test_interrupted_runs_go_on_to_the_adapters_that_they_would_have_become(files):
    """In a process of its own: a run only goes on with the kernels that it began with, and these began with none.

    Numbers are compared within 1e-6: torch's products on this reference path depend on the CPU.
    """
    best = read_adapter(Path("home/runs/watched/best-2")).fingerprint
    began = log_of("watched")
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
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-6)
    kept = ("step", "loss", "learning_rate", "grad_norm", "tokens", "trained_tokens")
    for new, old in zip(log_of("half"), log_of("whole"), strict=True):
        assert new.keys() == old.keys()
        for key in new.keys() & set(kept):
            assert new[key] == pytest.approx(old[key], rel=1e-5), (old["step"], key)

    watched = Shelf().load("watched")
    assert watched.fingerprint == best  # read from the disk: no number was computed again
    assert watched.card.scores == {"eval_loss": began[1]["eval_loss"], "best_step": 2}
    log = log_of("watched")
    assert log[: len(began)] == began
    assert [line["step"] for line in log if "eval_loss" in line] == [2, 4, 6, 8]
    assert not list(Path("home/runs").rglob("checkpoint*"))


RESUME = """
import torch, kameleon
from kameleon import Recipe, Watch
torch.set_num_threads(1)
half = Recipe(rank=2, rows_per_step=3, epochs=2.0, learning_rate=0.01, seed=3)
watched = Recipe(rank=1, rows_per_step=3, epochs=2.0, learning_rate=0.01, targets="down_proj", seed=3)
watch = Watch(eval_every=2, patience=0)
base = kameleon.load("base", torch.float32)
base.train("rows.jsonl", "half", recipe=half, resume=True)
base.train("rows.jsonl", "watched", held_out="held-out.jsonl", recipe=watched, watch=watch, resume=True)
"""
