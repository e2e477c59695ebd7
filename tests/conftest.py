"""No test touches the user's own folders or the network. Tiny bases are made once for all tests.

With KAMELEON_TEST_AMX=1 everything takes the way that it takes on a CPU with AMX, where torch multiplies bf16: torch's
other bf16 products stand in for those. It needs a CPU with AVX-512.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

if os.environ.get("KAMELEON_TEST_AMX"):
    torch.cpu._is_amx_tile_supported = lambda: True

from tiny import save_base

import kameleon
from kameleon.cli import main

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
settings.load_profile("untimed")


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


@pytest.fixture
def few_common_bases(monkeypatch):
    """Their speed is measured on a large shape, which takes seconds."""
    from kameleon.plan import common_bases
    from kameleon.plan.calibration import Line, Rates

    rates = Rates(Line(0, 1e-4), Line(0, 4e-4), 1e-5, 1e-9, 2e-9, Line(0, 1e-4), Line(0, 2e-4), 100, 1e-10)
    monkeypatch.setitem(common_bases.__globals__, "calibrate", lambda *_: rates)
