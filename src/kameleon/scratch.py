"""Folders for what is not finished. Each says whose it is, so that what a killed process left can be deleted.

    .kameleon-5c1f…/.held      locked by the process that works there; the system frees it however the process ends
    .kameleon-5c1f…/new        what is written, before it is renamed to its place
    .kameleon-5c1f…/replaced/  what was in that place
    .kameleon-5c1f…/removed    what is being deleted

A folder whose lock can be taken is nobody's. Where the file system or the system has no such locks, nothing is swept.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

REPLACED = "replaced"
_HELD = ".held"
_NAME = re.compile(r"\.kameleon-[0-9a-f]{16}")


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, deleted at the end of the block. What is in its folder `replaced` goes back to `parent`
    if nothing has taken its name.

    Makes `parent`, and sweeps it. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder, lock = _new(parent)
    try:
        yield folder
    finally:
        with suppress(OSError):  # swept later
            _delete(folder)
        if lock is not None:
            os.close(lock)


def sweep(parent: Path) -> None:
    """Delete the scratch folders in `parent` that no process holds. What cannot be deleted stays."""
    for folder in _scratch_folders(parent):
        lock = _take(folder)
        if lock is not None:
            with suppress(OSError):
                _delete(folder)
            os.close(lock)
        with suppress(OSError):  # of a process that ended before it held the folder
            folder.rmdir()


def in_use(folder: Path) -> bool:
    """Whether a process may be writing in the folder or below it."""
    for parent in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for scratch in _scratch_folders(parent):
            lock = _take(scratch)
            if lock is None:
                return True
            os.close(lock)
    return False


def _new(parent: Path) -> tuple[Path, int | None]:
    """A folder and the lock on it; None where there are no locks. Without a file `.held` nobody sweeps the folder."""
    while True:
        folder = parent / f".kameleon-{secrets.token_hex(8)}"
        folder.mkdir()
        if fcntl is None:
            return folder, None
        held = folder / _HELD
        try:
            lock = os.open(held, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:  # swept since the line before
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(held), os.fstat(lock)):
                return folder, lock
        except (BlockingIOError, FileNotFoundError):  # being swept
            pass
        except OSError:
            held.unlink()
            os.close(lock)
            return folder, None
        os.close(lock)


def _scratch_folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [Path(e.path) for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _take(folder: Path) -> int | None:
    """The lock of a folder that no process holds; None if one does, or if nobody can tell."""
    if fcntl is None:
        return None
    try:
        if folder.stat().st_uid != os.geteuid():
            return None
        lock = os.open(folder / _HELD, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _delete(folder: Path) -> None:
    """Put back what was replaced, and delete the rest; `.held` last, so that an end in between is found by `sweep`."""
    replaced = folder / REPLACED
    for path in replaced.iterdir() if replaced.is_dir() else ():
        if not os.path.lexists(folder.parent / path.name):
            path.rename(folder.parent / path.name)
    for path in folder.iterdir():
        if path.name == _HELD:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / _HELD).unlink(missing_ok=True)
    folder.rmdir()
