"""aider, asked one question without a repository."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import BASE_URL, HELLO, MODEL, report


def aider(*words):
    folder = tempfile.mkdtemp()
    options = "--chat-mode ask --no-git --yes-always --no-check-update --analytics-disable --no-show-model-warnings"
    command = [Path(sys.executable).with_name("aider"), *options.split(), "--model", f"openai/{MODEL}", *words]
    env = {**os.environ, "HOME": folder, "OPENAI_API_BASE": BASE_URL, "OPENAI_API_KEY": "none"}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    ended = subprocess.run(
        [*command, "--message", HELLO], capture_output=True, text=True, env=env, cwd=folder, stdin=subprocess.DEVNULL
    )
    said = ended.stdout + ended.stderr
    # Without the internet it says that it has no list of prices, and goes on.
    assert ended.returncode == 0 and "received." in said and "litellm." not in said, said[-500:]


def chat():
    aider("--no-stream")


def stream():
    aider("--stream")


report("aider-chat", chat=chat, stream=stream)
