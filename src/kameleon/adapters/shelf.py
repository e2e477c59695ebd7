"""Adapters on disk, by name, with the versions that each name has had.

    <root>/law/0001/   the three files of an adapter, never changed once they are there
    <root>/law/0002/
    <root>/law/current the number of the version that the name means; replacing this file is what saving comes down to

Every change holds the shelf's lock; reading needs none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from kameleon.adapters.adapter import Adapter, check_name
from kameleon.adapters.card import Card, read_card
from kameleon.adapters.formats.peft import read_adapter, write_adapter
from kameleon.arguments import checked
from kameleon.errors import AdapterError, AdapterFileError, AdapterNotFoundError, SettingError
from kameleon.home import adapters_dir, atomic_folder, atomic_write, discard
from kameleon.terminal import printable
from kameleon.words import did_you_mean, first_few, short_repr

_CURRENT = "current"
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ShelfEntry:
    """One version of an adapter as the shelf sees it, without its tensors. `fault` says why it cannot be read."""

    name: str
    path: Path
    bytes: int
    card: Card | None
    fault: str | None = None
    version: int | None = None
    current: bool = True

    __repr__ = short_repr


@dataclass(frozen=True)
class ShelfVersion:
    """One version on disk. Two are equal only if they are the same folder: after `remove`, numbers begin anew."""

    path: Path
    number: int
    inode: int
    written_ns: int


class Shelf:
    """A folder of adapters, by default the one in Kameleon's home. Safe for several processes at once."""

    @checked()
    def __init__(self, root: str | Path | None = None) -> None:
        self.root = adapters_dir() if root is None else Path(root)

    def __repr__(self) -> str:
        return printable(f"Shelf({str(self.root)!r}: {first_few(self.names(), 8) or 'no adapters'})")

    def names(self) -> list[str]:
        """Names in order; folders whose name starts with a dot, or that have no version yet, are unfinished writes."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if _is_there(p))

    @checked()
    def has(self, name: str) -> bool:
        """Whether an adapter of exactly this name is there: a file system may take Law for law."""
        check_name(name)
        return self.root.is_dir() and name in os.listdir(self.root) and _is_there(self.root / name)

    @checked()
    def require_free(self, name: str) -> None:
        """Raise SettingError for a name that is taken, before the work for an adapter that could not be kept."""
        if self.has(name):
            raise SettingError(
                f"adapter {name!r} is on the shelf already; pick another name, or replace it with `overwrite=True`"
            )

    def entries(self) -> list[ShelfEntry]:
        """The current version of every adapter with its card; a broken one is listed with its fault."""
        return [self._current_entry(name) for name in self.names()]

    @checked()
    def entry(self, name: str) -> ShelfEntry:
        """One of `entries`. Raises AdapterNotFoundError."""
        self._check_there(name)
        return self._current_entry(name)

    @checked()
    def history(self, name: str) -> list[ShelfEntry]:
        """All versions of an adapter, oldest first. Raises AdapterNotFoundError, AdapterFileError."""
        self._check_there(name)
        current = self._current(name)
        return [replace(self._entry(name, v), current=v == current) for v in self._versions(name)]

    @checked()
    def path(self, name: str) -> Path:
        """The folder of an adapter's current version. Raises AdapterNotFoundError, naming the nearest."""
        self._check_there(name)
        return self._folder(name, self._current(name))

    @checked()
    def current(self, name: str) -> ShelfVersion:
        """The version that a name means now, also while others change the shelf.

        Raises AdapterNotFoundError, AdapterFileError.
        """
        while True:
            self._check_there(name)
            folder = _inode(self.root / name)
            try:
                path = self.path(name)
                found = path.stat()
            except (AdapterFileError, OSError) as error:
                if folder == _inode(self.root / name):
                    raise AdapterFileError(str(error)) from error
            else:
                return ShelfVersion(path, int(path.name), found.st_ino, found.st_mtime_ns)

    @checked()
    def folder(self, name: str) -> Path:
        """The folder of an adapter with all its versions, broken or not. Raises AdapterNotFoundError."""
        self._check_there(name)
        return self.root / name

    @checked()
    def load(self, name: str) -> Adapter:
        """Raises AdapterNotFoundError, AdapterFileError."""
        return read_adapter(self.path(name), name=name)

    @checked()
    def save(self, adapter: Adapter, *, overwrite: bool = True) -> Path:
        """Put an adapter on the shelf under its own name, as the name's newest and current version.

        Raises AdapterFileError when it cannot be written, SettingError when the name is taken and must not be.
        """
        with self._locked():
            if not overwrite:
                self.require_free(adapter.name)
            folder = self._folder(adapter.name, max(self._versions(adapter.name), default=0) + 1)
            if folder.parent.exists():
                write_adapter(adapter, folder)
                _point(folder.parent, folder)
            else:  # in one step, so that no version without a `current` can be left
                with atomic_folder(folder.parent) as fresh:
                    write_adapter(adapter, fresh / folder.name)
                    _point(fresh, folder)
        return folder

    @checked()
    def rollback(self, name: str, version: int | None = None) -> int:
        """Make an earlier version current (by default the one before), and return its number. Nothing is deleted.

        Raises AdapterNotFoundError for an adapter or a version that is not there.
        """
        with self._locked():
            self._check_there(name)
            versions = self._versions(name)
            if version is None:
                version = max((v for v in versions if v < self._current(name)), default=0)
            if version not in versions:
                listed = ", ".join(map(str, versions))
                wanted = f"no version {version}" if version else "no earlier version"
                raise AdapterNotFoundError(f"adapter {name!r} has {wanted}; it has {listed}")
            _point(self.root / name, self._folder(name, version))
        return version

    @checked()
    def remove(self, name: str) -> None:
        """Delete an adapter with all its versions. Raises AdapterNotFoundError."""
        with self._locked():
            self._check_there(name)
            discard(self.root / name)

    @checked()
    def remove_version(self, name: str, version: int) -> None:
        """Delete a version that is not current. Raises AdapterNotFoundError, and SettingError for the current one."""
        with self._locked():
            self._check_there(name)
            if version not in self._versions(name):
                raise AdapterNotFoundError(f"adapter {name!r} has no version {version}")
            if version == self._current(name):
                raise SettingError(f"version {version} of adapter {name!r} is its current one: it stays")
            discard(self._folder(name, version))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock", timeout=_LOCK_TIMEOUT_S):
                yield
        except Timeout:
            raise AdapterError(
                f"another process holds the shelf {self.root} for over {_LOCK_TIMEOUT_S:.0f} s; let it end, try again"
            ) from None
        except OSError as error:
            raise AdapterFileError(f"the shelf {self.root} cannot be written: {error}") from error

    def _check_there(self, name: str) -> None:
        if not self.has(name):
            hint = did_you_mean(name, self.names())
            raise AdapterNotFoundError(
                f"no adapter {name!r} on the shelf: {hint and hint + ' '}it holds {', '.join(self.names()) or 'none'}"
            )

    def _folder(self, name: str, version: int) -> Path:
        return self.root / check_name(name) / f"{version:04}"

    def _versions(self, name: str) -> list[int]:
        folder = self.root / check_name(name)
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(p.name) for p in found if re.fullmatch(r"\d{4,9}", p.name) and p.is_dir())

    def _current(self, name: str) -> int:
        """The version that the name means; the file must hold a number and nothing else."""
        pointer = self.root / check_name(name) / _CURRENT
        if not pointer.exists():
            raise AdapterFileError(
                f"{pointer.parent} was not put there by Kameleon: `Shelf().save(read_adapter(folder))` does that"
            )
        try:
            text = pointer.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise AdapterFileError(f"{pointer} cannot be read: {error}") from error
        if not re.fullmatch(r"\d{4,9}", text) or not self._folder(name, int(text)).is_dir():
            raise AdapterFileError(
                f"{pointer} names version {text[:20]!r}, which is not there: `Shelf().rollback({name!r}, version)`; "
                f"it has {', '.join(map(str, self._versions(name))) or 'none'}"
            )
        return int(text)

    def _current_entry(self, name: str) -> ShelfEntry:
        try:
            return self._entry(name, self._current(name))
        except AdapterError as error:  # a folder that somebody put there may have any name
            return ShelfEntry(name, self.root / name, 0, None, str(error))

    def _entry(self, name: str, version: int) -> ShelfEntry:
        path, size = self._folder(name, version), 0
        try:  # another process may be removing it
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            if not (path / "adapter_config.json").exists():
                raise AdapterFileError("it has no adapter_config.json")
            card = read_card(path)
        except (AdapterError, OSError) as error:
            return ShelfEntry(name, path, size, None, str(error), version)
        return ShelfEntry(name, path, size, card and card[0], None, version)


def _point(folder: Path, version: Path) -> None:
    with atomic_write(folder / _CURRENT) as file:
        file.write(f"{version.name}\n".encode())


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _is_there(folder: Path) -> bool:
    return not folder.name.startswith(".") and any(
        (folder / mark).exists() for mark in (_CURRENT, "adapter_config.json")
    )
