"""The client programs: how each is installed, in a folder of its own, and how its script runs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("KAMELEON_CLIENTS", "~/.cache/kameleon-clients")).expanduser()
ABILITIES = ("chat", "stream", "tools", "structured_output", "embeddings")


@dataclass(frozen=True)
class Client:
    """A client, the script that uses it, and the packages that it needs from PyPI or npm."""

    name: str
    script: str
    packages: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    """Abilities that the client itself has not."""

    @property
    def folder(self) -> Path:
        return ROOT / Path(self.script).stem

    def install(self) -> str:
        """Install it if it is not there; returns "" or why that failed."""
        done = self.folder / "installed"
        if done.exists():
            return ""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.script.endswith(".py"):
            pip = [self.folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            commands = [[sys.executable, "-m", "venv", self.folder], [*pip, *self.packages]]
        else:
            commands = [["npm", "install", "--silent", "--prefix", self.folder, *self.packages]]
        for command in commands:
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if ended.returncode:
                return ended.stderr[-500:]
        done.touch()
        return ""

    def run(self, base_url: str, model: str) -> dict:
        """The report of its script: `version` and `results`."""
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OTEL_SDK_DISABLED": "true"}
        if self.script.endswith(".py"):
            command = [self.folder / "bin" / "python", HERE / self.script]
        else:  # a script finds packages beside itself only
            for file in HERE.glob("*.mjs"):
                (self.folder / file.name).write_text(file.read_text())
            command = ["node", self.script]
        ended = subprocess.run(
            [*command, base_url, model], capture_output=True, text=True, timeout=600, cwd=self.folder, env=env
        )
        last = ended.stdout.strip().rpartition("\n")[2]
        assert last.startswith("{"), (self.name, ended.stdout[-1000:], ended.stderr[-2000:])
        return json.loads(last)


CLIENTS = (
    Client("openai (Python)", "use_openai_python.py", ("openai",)),
    Client("openai (npm)", "use_openai_node.mjs", ("openai", "zod")),
    Client("litellm", "use_litellm.py", ("litellm",)),
    Client("langchain-openai", "use_langchain.py", ("langchain-openai",)),
    Client(
        "llama-index-llms-openai-like",
        "use_llama_index.py",
        ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like"),
    ),
    Client("instructor", "use_instructor.py", ("instructor",), lacks=("embeddings",)),
    Client("pydantic-ai", "use_pydantic_ai.py", ("pydantic-ai-slim[openai]",)),
    Client("llm", "use_llm.py", ("llm",), lacks=("embeddings",)),
    Client("aider", "use_aider.py", ("aider-chat",), lacks=("tools", "structured_output", "embeddings")),
    Client("AI SDK (npm ai)", "use_ai_sdk.mjs", ("ai", "@ai-sdk/openai-compatible", "zod")),
)
