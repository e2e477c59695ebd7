"""Grammars are tried in a process of their own first: one that takes too long or too much memory ends that process."""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from kameleon.errors import KameleonError, SettingError
from kameleon.settings import Form

SHOWN_CHARACTERS = 300
"""Of the library's message, which repeats the whole expression."""
_PROGRAM = Path(__file__).with_name("compiling.py")
_MEMORY_BYTES = 128_000_000  # for one try; what compiles within a second takes under 40 MB

Spelled = tuple[list[bytes], list[int], list[int]]
"""What `compiling.Spelled` takes: the bytes of each token, the special tokens, those that end an answer."""


class Trial:
    """Tries forms, one at a time, in a process that starts with the first and starts again where one has ended it.

    The process ends with this object and with this process, however that ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held during a try
        self._state = threading.Lock()  # held for a moment
        self._process: subprocess.Popen[bytes] | None = None
        self._spelled: Spelled | None = None  # that the process knows
        self._form: Form | None = None  # that is tried now
        self._is_ended = False  # its try, by `end`

    @property
    def pid(self) -> int | None:
        """The process's number while there is one."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def check(self, form: Form, text: str, spelled: Spelled, *, cpu_s: float) -> None:
        """Try `form`, whose `text` is put in the words that the library knows, within `cpu_s` seconds of CPU time.

        Raises SettingError where it cannot be followed, or not within the limits, and KameleonError where `end` ended
        the try.
        """
        with self._lock:
            self._form, self._is_ended = form, False
            try:
                reason = self._asked(self._running(), text, spelled, cpu_s)
            finally:
                self._form = None
        if reason is not None:
            raise SettingError(f"{form.kind} cannot be followed: {reason[:SHOWN_CHARACTERS]}")

    def end(self, form: Form) -> None:
        """End the try of `form`, if it runs. May be called from another thread."""
        with self._state:
            if self._form == form:
                self._is_ended = True
                if self._process is not None:
                    self._process.kill()
                    self._process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        with self._state:
            if self._process is None or self._process.poll() is not None:
                self._spelled = None
                self._process = subprocess.Popen(
                    # -P: the other files beside the program are none of its modules. A session of its own: Ctrl-C in a
                    # terminal is for the server, which lets answers end.
                    [sys.executable, "-P", str(_PROGRAM)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                weakref.finalize(self, _close, self._process)
            if self._is_ended:
                self._process.kill()
            return self._process

    def _asked(self, process: subprocess.Popen[bytes], text: str, spelled: Spelled, cpu_s: float) -> str | None:
        """The reason why a form cannot be followed."""
        assert process.stdin is not None and process.stdout is not None and self._form is not None
        new = None if spelled == self._spelled else spelled
        with contextlib.suppress(BrokenPipeError):  # it has ended
            process.stdin.write(pickle.dumps((new, _MEMORY_BYTES, cpu_s, self._form.kind, text)))
            process.stdin.flush()
        if answer := process.stdout.readline():
            self._spelled = spelled
            return json.loads(answer)
        code = process.wait()
        _close(process)
        if self._is_ended:
            raise KameleonError("the grammar's compilation was ended")
        if sys.platform != "win32" and code == -signal.SIGPROF:
            return f"it takes more than {cpu_s:g} s of computing to compile; make it simpler"
        return f"it takes more than {_MEMORY_BYTES // 1_000_000} MB of memory, or more than the library can do"


def _close(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what was not yet written
                pipe.close()


TRIAL = Trial()
"""The one of this process; its own process ends with this one."""
