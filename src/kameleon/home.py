"""Kameleon's folders on this machine, reading small text files, and writing files as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kameleon.errors import SettingError

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
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.close(descriptor)
        with open(name, "wb") as file:  # opened by its name, so that a library may write to `file.name` itself
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into. It replaces `path` if the block ends without an error, else it is deleted.

    Makes the parent folder. Raises OSError; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    old = fresh.with_name(f"{fresh.name}.old")
    try:
        yield fresh
        fresh.chmod(0o755)
        for file in (one for one in fresh.rglob("*") if one.is_file()):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
