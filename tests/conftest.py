"""No test touches the user's own folders or the network. Tiny bases are made once for all tests."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import save_base

import kameleon
from kameleon.cli import main


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KAMELEON_HOME", str(tmp_path / "kameleon-home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny random Llama in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_base(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder):
    """The tiny Llama loaded in fp32, with an empty bank and shelf."""
    return kameleon.load(str(tiny_folder), dtype=torch.float32)


@pytest.fixture
def run(capsys):
    """Run a command; returns (exit status, standard output, standard error)."""

    def command(*words):
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command
