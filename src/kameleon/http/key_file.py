"""Whether the file of API keys is safe: nobody but its owner may read it, change it or put another in its place."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from kameleon.errors import SettingError


def check_key_file(path: Path, *, is_local: bool) -> None:
    """Raise SettingError for a key file that others of this machine can read or change, or OSError's own reason.

    Where the server listens to this machine alone (`is_local`), that is a warning.
    """
    try:
        fault = _fault(path)
    except OSError as error:
        raise SettingError(f"the API keys in {path} cannot be read: {error}") from error
    if fault is None:
        return
    if not is_local:
        raise SettingError(f"{fault}; the server listens beyond this machine, so its keys must be its own")
    warnings.warn(fault, stacklevel=3)


def _fault(path: Path) -> str | None:
    """Who else can read or change the keys, and what to do; None if nobody can. Raises OSError."""
    if sys.platform == "win32":  # its rights are no modes
        return None
    found = path.stat()
    if others := found.st_mode & 0o066:
        who = "all users of this machine" if others & 0o006 else "users of its group"
        can = "read" if others & 0o044 else "change"
        return f"{who} can {can} the API keys in {path}: chmod 600 {shlex.quote(str(path.resolve()))}"
    if found.st_uid not in (os.geteuid(), 0):
        return f"the API keys in {path} belong to another user (number {found.st_uid}): make a file of your own"
    if stat.S_ISREG(found.st_mode):  # a pipe has no place
        for folder in _folders(path):
            mode = folder.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # in a sticky folder (/tmp) only owners can rename
                return f"all users can replace the API keys in {path}: chmod o-w {shlex.quote(str(folder))}"
    return None


def _folders(path: Path) -> Iterator[Path]:
    """Every folder through which the system reaches a file: also those that hold a link on the way."""
    at, left = Path("/"), list(path.absolute().parts[1:])
    while left:
        yield at
        name = left.pop(0)
        if (at / name).is_symlink():
            target = (at / name).readlink()
            at, left = (Path("/") if target.is_absolute() else at), [*target.parts[target.is_absolute() :], *left]
        else:
            at = at.parent if name == ".." else at / name
