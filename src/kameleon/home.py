"""Kameleon's folders on this machine, reading small text files, and writing files as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kameleon.errors import SettingError
from kameleon.scratch import REPLACED, scratch_folder, sweep

FORMAT = 1
"""The home's format. 1: cards hold no folders; where local bases lie is noted in `bases/places.json`."""
CHAT_HISTORY = "chat_history"
"""The file in the home with the lines that were typed in chat."""


def home() -> Path:
    """`KAMELEON_HOME`, or ~/.local/share/kameleon."""
    return Path(os.environ.get("KAMELEON_HOME") or Path.home() / ".local" / "share" / "kameleon")


def bases_dir() -> Path:
    """Records of fetched bases."""
    return home() / "bases"


def adapters_dir() -> Path:
    """The shelf of adapters."""
    return home() / "adapters"


def runs_dir() -> Path:
    """Checkpoints and logs of training runs."""
    return home() / "runs"


def cache_dir() -> Path:
    """Files that can be computed again at any time."""
    return home() / "cache"


def format_of_home() -> int:
    """The number in the home's file `format`; 0 for a home without one. Raises SettingError if it is no number."""
    path = home() / "format"
    try:
        return int(read_text(path)) if path.exists() else 0
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} must hold a number and nothing else: {error}") from error


def is_current() -> bool:
    """Whether the home has today's format, or does not exist yet."""
    return not home().is_dir() or format_of_home() == FORMAT


def read_text(path: Path, *, most_bytes: int = 16 << 20) -> str:
    """A small file of UTF-8 text that a person or another program wrote; Windows' byte order mark is no part of it.

    Raises OSError where it cannot be read, ValueError where it is no such text or has more than `most_bytes`.
    """
    if (size_bytes := path.stat().st_size) > most_bytes:
        raise ValueError(f"it has {size_bytes:,} bytes; at most {most_bytes:,} are read")
    return path.read_bytes().decode("utf-8-sig")


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to. It replaces `path` in one step if the block ends without an error, else it is deleted.

    Makes the parent folder. Raises OSError (disk full, read-only folder); `path` is then as it was.
    """
    with scratch_folder(path.parent) as scratch:
        fresh = scratch / "new"
        with fresh.open("wb+") as file:
            yield file
        _flush(fresh)
        os.replace(fresh, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into. It replaces `path` if the block ends without an error, else it is deleted.

    Makes the parent folder. Raises OSError; `path` is then as it was.
    """
    with scratch_folder(path.parent) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        yield fresh
        for file in (one for one in fresh.rglob("*") if one.is_file()):
            _flush(file)
        if path.exists():
            (scratch / REPLACED).mkdir()
            path.rename(scratch / REPLACED / path.name)
        fresh.rename(path)


def _flush(path: Path) -> None:
    """Wait until the file is on the disk. It is opened by its name: a library may have put another in its place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def require_new(path: Path) -> None:
    """Sweep beside an output, and raise SettingError if it is there already."""
    sweep(path.parent)
    if path.exists():
        raise SettingError(f"{path} is there already; give another place")


def discard(path: Path) -> None:
    """Delete a file or a folder. Its name is free in one step, even if the process ends while it deletes.

    Raises OSError.
    """
    with scratch_folder(path.parent) as scratch:
        path.rename(scratch / "removed")


def sweep_home() -> None:
    """Delete what killed processes left unfinished in the home."""
    parts = [bases_dir(), adapters_dir(), runs_dir(), cache_dir()]
    below = [folder for part in parts if part.is_dir() for folder in part.iterdir() if folder.is_dir()]
    for folder in (home(), *parts, *below):
        sweep(folder)
