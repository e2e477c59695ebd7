"""Contenders without a server: a library's batched `generate` in a process of its own, which gets lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kameleon.bench.serving.contender import Contender, Program, Stage
from kameleon.bench.serving.load import ANSWER_S, Drive
from kameleon.errors import ContenderError

_HERE = Path(__file__).parent


class Worker(Contender):
    """A script that prints one line when it is ready, then answers {"adapters", "prompts", "tokens"} with {"seconds",
    "tokens"}."""

    def __init__(self, stage: Stage, python: str, script: str) -> None:
        what = {
            "folder": str(stage.folder),
            "adapters": [str(path) for path in stage.adapters[:16]],
            "threads": stage.settings.used_threads,
            "work": str(stage.home),
        }
        self._program = Program([python, _HERE / script, json.dumps(what)], stage.settings.used_threads)
        self._program.line()

    def run(self, adapters: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int) -> Drive:
        wish = {"adapters": list(adapters), "prompts": [list(prompt) for prompt in prompts], "tokens": tokens}
        assert self._program.process.stdin is not None
        try:
            self._program.process.stdin.write(json.dumps(wish).encode() + b"\n")
            self._program.process.stdin.flush()
        except OSError as error:
            raise ContenderError(f"it ended: {self._program.last_words()}") from error
        done = json.loads(self._program.line(ANSWER_S))
        return Drive(done["seconds"], int(done["tokens"]), [])

    def close(self) -> None:
        self._program.end()


class Peft(Worker):
    """transformers + PEFT: one padded batch, with `adapter_names` for the rows' adapters."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage, sys.executable, "peft_worker.py")

    def can(self, adapters: Sequence[int | None]) -> bool:
        return all(adapter is None or adapter < 16 for adapter in adapters)


class OpenVino(Worker):
    """OpenVINO GenAI in an environment of its own: one set of adapters for a whole batch."""

    def __init__(self, stage: Stage, python: str) -> None:
        super().__init__(stage, python, "openvino_worker.py")

    def can(self, adapters: Sequence[int | None]) -> bool:
        return len(set(adapters)) == 1
