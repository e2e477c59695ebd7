"""The file for a bug report: what helps, and none of the secrets that are planted here."""

import getpass
import json
import platform
import socket
from pathlib import Path

import pytest

from kameleon import home

SECRETS = {"HF_TOKEN": "hf_planted_token", "HTTPS_PROXY": "http://jan:planted@proxy.example.org"}


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Secrets in the environment, the machine's names, a home with a telling path."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "jan-kowalski"))
    monkeypatch.setenv("KAMELEON_HOME", str(tmp_path / "jan-kowalski" / "kameleon"))
    monkeypatch.setattr(socket, "gethostname", lambda: "planted-host")
    monkeypatch.setattr(platform, "node", lambda: "planted-host")
    monkeypatch.setattr(getpass, "getuser", lambda: "planted-user")
    return tmp_path


def test_a_report_helps_and_holds_no_secret(planted, run):
    rows = planted / "planted-rows.jsonl"
    rows.write_text('{"prompt": "planted prompt", "completion": 3, "planted_key": 1}\n')
    assert run("data", "check", rows, "--base", planted / "planted-base")[0] == 2
    status = run("doctor", "--report", planted / "report.json")[0]
    assert status in (0, 1)  # 1 where no kernel runs
    text = (planted / "report.json").read_text()
    report = json.loads(text)
    assert report["last_error"]["command"] == "data check"
    assert report["last_error"]["error"].endswith("Error")
    assert any("cli/" in line for line in report["last_error"]["passed"])
    assert report["packages"]["torch"] and report["kameleon"]
    assert report["settings"]["HF_TOKEN"] == "set"
    assert report["doctor"]["disk_bytes"].keys() >= {"adapters", "runs", "free"}
    for secret in ("planted", "jan-kowalski", str(planted), str(Path.home())):
        assert secret not in text, secret
    assert run("doctor", "--report", planted / "report.json")[0] == 2  # there already


def test_a_report_without_an_error_says_so(planted, run):
    run("doctor", "--report", planted / "report.json")
    assert json.loads((planted / "report.json").read_text())["last_error"] is None
    assert not (home.cache_dir() / "last-error.json").exists()
