"""Where Kameleon keeps things on this machine, and how a file is replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def home() -> Path:
    """`KAMELEON_HOME`, or ~/.local/share/kameleon."""
    return Path(os.environ.get("KAMELEON_HOME") or Path.home() / ".local" / "share" / "kameleon")


def bases_dir() -> Path:
    return home() / "bases"


def adapters_dir() -> Path:
    return home() / "adapters"


def runs_dir() -> Path:
    return home() / "runs"


def cache_dir() -> Path:
    """What can be computed again at any time."""
    return home() / "cache"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to; it takes the place of `path` in one step when the block ends well, else it is dropped.

    Makes the parent folder. Raises OSError (disk full, read-only folder); `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
