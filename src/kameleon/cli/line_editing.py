"""Arrow keys and a history of lines at a prompt, kept from one conversation to the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kameleon.cli.console import notes
from kameleon.home import CHAT_HISTORY, atomic_write, home
from kameleon.terminal import printable

_MOST_LINES = 1000


@contextmanager
def line_editing() -> Iterator[None]:
    """Inside the block `read_line` edits lines, and arrow up brings earlier ones back, where a person types them.

    They are kept in `chat_history` in Kameleon's home, which only its owner can read.
    """
    try:
        import readline
    except ImportError:  # Python for Windows has none; its console edits lines itself
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    path = home() / CHAT_HISTORY
    readline.clear_history()
    readline.set_history_length(_MOST_LINES)
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError), atomic_write(path) as file:  # a history that cannot be written loses no answer
            os.chmod(file.name, 0o600)
            readline.write_history_file(file.name)


def read_line(prompt: str) -> str | None:
    """A line of standard input; None at its end. The prompt is shown to a person only, never among the answers.

    Raises KeyboardInterrupt.
    """
    shown = printable(prompt) if sys.stdin.isatty() else ""
    if not sys.stdout.isatty():
        notes.print(shown, end="")
        shown = ""
    try:
        return input(shown)
    except EOFError:
        return None
