"""kameleon clean and kameleon base remove: what goes, what stays, and that they ask."""

import json

import pytest
from fakes import random_adapter
from filelock import FileLock
from hub import FILES, snapshot
from tiny import save_gguf

from kameleon import home
from kameleon.adapters import Shelf
from kameleon.scratch import scratch_folder


@pytest.fixture
def full(tiny):
    """A home with something of every kind."""
    for seed in (1, 2):
        Shelf().save(random_adapter(tiny.base, "law", seed))
    for run, file in (("ended", "log.jsonl"), ("half", "checkpoint.safetensors"), ("now", "log.jsonl")):
        (home.runs_dir() / run).mkdir(parents=True)
        (home.runs_dir() / run / file).write_bytes(b"x" * 1000)
    (home.home() / "chat_history").write_bytes(b"x")
    for path in (home.cache_dir() / "nf4", home.home() / "before-format-1"):
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"x" * 500)


def listed(answer):
    status, out, err = answer
    assert status == 0, err
    return {(one["kind"], one["name"]) for one in json.loads(out)["found"]}


def test_it_lists_what_is_not_needed_and_deletes_only_that(full, run):
    usual = {("runs", "ended"), ("caches", "nf4"), ("versions", "law 1")}
    with FileLock(home.runs_dir() / ".now.lock"), scratch_folder(home.cache_dir() / "held"):
        assert listed(run("clean", "--json")) == usual
        assert listed(run("clean", "--json", "--yes")) == usual
    assert {path.name for path in home.runs_dir().glob("[!.]*")} == {"half", "now"}
    assert [entry.version for entry in Shelf().history("law")] == [2]
    assert (home.cache_dir() / "held").exists(), "a process writes there now"
    others = {("unfinished", "half"), ("backups", "before-format-1")}
    assert listed(run("clean", "unfinished", "backups", "--json")) == others
    assert run("clean", "unfinished", "history", "--yes")[0] == 0
    assert not (home.home() / "chat_history").exists()
    assert not (home.runs_dir() / "half").exists()


def test_it_shows_first_and_asks(full, run, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    status, out, err = run("clean", "caches")
    assert (status, "nf4" in out, "stays: 1 unfinished" in err) == (1, True, True)
    assert "delete these 1 (0.0 MB) for good?" in asked[0]
    assert (home.cache_dir() / "nf4").exists()


def test_the_doctor_tells_disk_use(full, run):
    used = json.loads(run("doctor", "--json")[1])["disk_bytes"]
    assert used["runs"] == 3000 and used["cache"] == 500
    assert used["adapters"] > 0 and used["free"] > 0


def test_a_fetched_base_is_removed_and_the_adapters_that_need_it_are_named(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    law = random_adapter(tiny.base, "law")
    monkeypatch.setattr("builtins.input", lambda question: "n")
    snapshot(tmp_path / "hub", "owner/name", FILES)
    Shelf().save(type(law)("law", law.modules, type(law.card)(base_id="owner/name", base_fingerprint="sha256:0")))
    status, _, err = run("base", "remove", "owner/name")
    assert (status, "adapters that need it: law" in err, "other programs" in err) == (1, True, True)
    assert run("base", "remove", "owner/name", "--yes")[0] == 0
    assert not (tmp_path / "hub" / "models--owner--name").exists()
    own = home.bases_dir() / "old.gguf"
    own.parent.mkdir(parents=True, exist_ok=True)
    save_gguf(own)
    assert run("base", "remove", own, "--yes")[0] == 0
    assert not own.exists()


def test_a_persons_own_base_is_not_deleted(tiny_folder, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    status, _, err = run("base", "remove", tiny_folder, "--yes")
    assert (status, "was not fetched by Kameleon" in err) == (2, True)
    assert (tiny_folder / "model.safetensors").exists()
    status, _, err = run("base", "remove", "smolm2", "--yes")
    assert (status, "no base 'smolm2' is on this machine" in err) == (2, True)
