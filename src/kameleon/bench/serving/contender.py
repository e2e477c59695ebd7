"""The interface of a contender, and the process of another program."""

from __future__ import annotations

import http.client
import os
import select
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kameleon.bench.serving.load import Drive
from kameleon.bench.serving.settings import ServeBenchSettings
from kameleon.errors import ContenderError

_START_S = 300.0
_END_S = 10.0


@dataclass(frozen=True)
class Stage:
    """The input of all contenders: the base in bf16 (Hugging Face layout) and as GGUF, and the adapters' folders."""

    folder: Path
    gguf: Path
    adapters: Sequence[Path]
    home: Path
    settings: ServeBenchSettings


class Contender(ABC):
    """A program that runs and answers."""

    @abstractmethod
    def run(self, adapters: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int) -> Drive:
        """Answer all prompts at once, prompt i with adapter `adapters[i]` (None: the base). Raises ContenderError."""

    def can(self, adapters: Sequence[int | None]) -> bool:
        """Whether it can serve this mix at all."""
        return True

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Program:
    """Another program's process. Its standard error is kept for messages."""

    def __init__(
        self, command: Sequence[str | Path], threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lasts as long as the program)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **(environment or {})}
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=env
            )
        except OSError as error:
            raise ContenderError(f"{command[0]} cannot be started: {error}") from error

    def wait_until_ready(self, netloc: str, path: str) -> None:
        """Wait until it answers. Raises ContenderError when it ends before, or needs more than five minutes."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ContenderError(f"it ended with status {self.process.returncode}: {self.last_words()}")
            connection = http.client.HTTPConnection(netloc, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.1)
        raise ContenderError(f"it was not ready after {_START_S:.0f} s: {self.last_words()}")

    def line(self, timeout_s: float = _START_S) -> bytes:
        """Its next line of standard output. Raises ContenderError when it ends before, or is silent for `timeout_s`."""
        assert self.process.stdout is not None
        # `select` sees no line that Python has buffered; there is none, since each request is answered by one line.
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise ContenderError(f"it said nothing for {timeout_s:.0f} s: {self.last_words()}")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise ContenderError(f"it ended with status {self.process.returncode}: {self.last_words()}")
        return line

    def last_words(self) -> str:
        """The end of what the process wrote to its log, for messages."""
        self._log.seek(0)
        return self._log.read()[-400:].decode(errors="replace").strip()

    def end(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            if pipe is not None:
                pipe.close()
