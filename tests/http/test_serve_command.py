"""kameleon serve as a process: one line starts it, SIGTERM lets answers end, a kill leaves the shelf whole."""

import json
import re
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from served import KAMELEON, serving

from kameleon.adapters.formats import read_adapter

WISH = {"model": "law", "prompt": "one", "max_tokens": 200, "ignore_eos": True, "stream": True, "temperature": 0}


def post(address, body, headers=None):
    wish = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **(headers or {})},
    )
    return urllib.request.urlopen(wish, timeout=60)


def test_sigterm_lets_running_answers_end_and_a_kill_leaves_the_shelf_whole(tiny_folder, shelf, tmp_path):
    before = {name: read_adapter(shelf.path(name)).fingerprint for name in shelf.names()}
    log = tmp_path / "log"
    with log.open("w") as file, serving(tiny_folder, "--pin", "law", log=file) as served:
        assert served.ready["base"] == "tiny"
        assert served.ready["adapters"] == ["law", "medicine"]
        assert served.address.startswith("http://127.0.0.1:")
        with post(served.address, WISH) as response:
            response.readline()
            served.process.send_signal(signal.SIGTERM)
            assert response.read().endswith(b"data: [DONE]\n\n")
        assert served.process.wait(20) == 0
        assert served.process.stdout.read() == ""  # the line that says when it is ready stays alone
    line = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d POST /v1/completions 200 model=law tokens=3\+200 ms=\d+ finish=length$"
    assert len(re.findall(line, log.read_text(), re.MULTILINE)) == 1
    with serving(tiny_folder) as served, post(served.address, WISH) as response:
        response.readline()
        served.process.kill()
    with serving(tiny_folder) as served, post(served.address, {**WISH, "stream": False}) as response:
        assert response.status == 200
        assert {name: read_adapter(shelf.path(name)).fingerprint for name in shelf.names()} == before


def test_the_command_that_it_shows_works_as_it_is(tiny_folder, tmp_path):
    command = [KAMELEON, "serve", "--base", tiny_folder, "--port", "0"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=-1, stderr=log, text=True) as process:
        shown = next(line for line in process.stdout if line.startswith("curl"))
        process.terminate()
    words = shlex.split(shown)
    assert words[1].endswith("/v1/chat/completions")
    assert words[2:4] == ["-H", "Content-Type: application/json"]
    assert json.loads(words[5])["model"] == "tiny"


def test_it_refuses_to_listen_for_others_without_keys_before_it_loads_anything(tiny_folder):
    started = time.monotonic()
    command = [KAMELEON, "serve", "--base", tiny_folder, "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--api-key-file" in ended.stderr
    assert "base tiny" not in ended.stderr
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_an_engine_that_breaks_ends_the_process_with_an_error(tiny_folder, tmp_path):
    """The engine is broken from inside by a script, as a bug would."""
    script = (
        "import sys; from kameleon.generation import Batch; from kameleon.cli import main\n"
        "def broken(self): raise RuntimeError('out of order')\n"
        "Batch.step = broken\n"
        f"main(['serve', '--base', {str(tiny_folder)!r}, '--port', '0', '--json'])"
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [KAMELEON.with_name("python"), "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
            address = json.loads(process.stdout.readline())["address"]
            with pytest.raises((urllib.error.HTTPError, OSError)):
                post(address, {**WISH, "model": "tiny"})
            assert process.wait(20) in (1, 2)
    assert "out of order" in log.read_text()
