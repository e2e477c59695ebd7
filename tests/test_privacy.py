"""Nothing leaves this machine: every command runs while other hosts cannot be reached, and tries to reach none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import socket_guard
from commands import commands
from fakes import random_adapter
from tiny import save_base, save_gguf

from kameleon import telemetry
from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.cli import app
from kameleon.home import bases_dir

KAMELEON = Path(sys.executable).with_name("kameleon")
ON_TINY = "--base tiny --compute fp32"
RUNS = {
    "base pull": "tiny",
    "base list": "",
    "base show": "tiny",
    "base convert": "tiny.gguf --kind F32 --out f32.gguf",
    "data check": "rows.jsonl --base tiny",
    "plan": "--data rows.jsonl --base tiny",
    "train": f"--data rows.jsonl --name new --epochs 1 --rank 1 {ON_TINY}",
    "eval": f"rows.jsonl --adapters law {ON_TINY}",
    "chat": f"--adapter law {ON_TINY}",
    "ask": f"Hello? --adapter law --max-tokens 2 {ON_TINY}",
    "adapter list": "",
    "adapter show": "law",
    "adapter verify": f"law {ON_TINY}",
    "adapter history": "law",
    "adapter rollback": "law 1",
    "adapter export": f"law --to ollama --out exported {ON_TINY}",
    "adapter import": f"peft --name again {ON_TINY}",
    "adapter merge": f"law --out merged {ON_TINY}",
    "adapter combine": "law code --name both",
    "adapter resize": "law --name small --rank 1",
    "adapter extract": "tuned --name got --rank 1 --base tiny",
    "adapter diff": "law code",
    "adapter remove": "code --yes",
    "doctor": "--report report.json",
    "clean": "--yes",
    "base remove": "{bases}/old.gguf --yes",
}
"""Each command with the words that make it do its work here."""
IN_A_PROCESS = {"serve", "lab", "bench train", "bench profile", "bench serve"}


@pytest.fixture
def blocked(tmp_path, monkeypatch):
    """Other hosts are refused, here and in children, although the hub's library may ask; returns the notes of tries."""
    notes, guard = tmp_path / "tried.txt", tmp_path / "guard"
    guard.mkdir()
    shutil.copy(socket_guard.__file__, guard / "sitecustomize.py")
    monkeypatch.setenv(socket_guard.NOTES, str(notes))
    monkeypatch.setenv("PYTHONPATH", f"{guard}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return notes


def tried(notes):
    return notes.read_text().splitlines() if notes.exists() else []


@pytest.fixture
def work(tmp_path, monkeypatch, tiny, tiny_folder, few_common_bases):
    """A folder with a base, rows and adapters for every command."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_folder, folder / "tiny")
    save_gguf(folder / "tiny.gguf")
    bases_dir().mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "tiny.gguf", bases_dir() / "old.gguf")
    model = save_base(folder / "tuned")
    model.model.layers[0].mlp.up_proj.weight.data[:, 0] += 1
    model.save_pretrained(folder / "tuned")
    rows = ({"prompt": f"What comes after {i}?", "completion": f"{i + 1}"} for i in range(4))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed, name in enumerate(("law", "code")):
        Shelf().save(random_adapter(tiny.base, name, seed, rank=1))
    write_adapter(random_adapter(tiny.base, "peft", 3, rank=1), folder / "peft")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("builtins.input", lambda *_: "/quit")
    return folder


def test_a_command_that_is_not_tried_here_does_not_exist():
    assert {name for name, _ in commands(app)} == RUNS.keys() | IN_A_PROCESS


def test_the_guard_refuses_other_hosts_here_and_in_children(blocked):
    ask = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    for run in (
        lambda: exec(ask),
        lambda: subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True),
    ):
        with pytest.raises((OSError, subprocess.CalledProcessError)):
            run()
    assert len(tried(blocked)) == 2


def test_no_command_tries_to_reach_another_host(blocked, work, run):
    for command, words in RUNS.items():
        status, _, err = run(*command.split(), *words.format(bases=bases_dir()).split())
        without_kernels = command == "doctor" and os.environ.get("KAMELEON_NATIVE") == "off"
        assert (status, tried(blocked)) == (int(without_kernels), []), f"{command}: {err}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "lab --out pictures",
        "bench train --base tiny --cases 1x8 --contenders kameleon,peft",
        "bench profile --base tiny",
        "bench serve --base tiny",
    ],
)
def test_no_benchmark_tries_to_reach_another_host(words, blocked, work):
    subprocess.run([KAMELEON, *words.split()], check=False, capture_output=True, timeout=170)
    assert tried(blocked) == []


@pytest.mark.slow
def test_the_server_reaches_nobody(blocked, work):
    command = [KAMELEON, "serve", "--base", "tiny", "--port", "0", "--json", "--pin", "law"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        ready = json.loads(process.stdout.readline())
        process.terminate()
    assert "law" in ready["adapters"]
    assert tried(blocked) == []


def test_the_hubs_library_reports_nothing_even_where_it_was_imported_first(monkeypatch):
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    assert "torch" not in huggingface_hub.utils.build_hf_headers()["user-agent"]
    for switch in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(switch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    telemetry.switch_off()
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    assert os.environ["DO_NOT_TRACK"] == "1"
