"""What lies in Kameleon's home, how much room it takes, and what of it can be deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from huggingface_hub import constants

from kameleon.adapters import Shelf
from kameleon.bases.remove import disk_bytes
from kameleon.errors import AdapterError
from kameleon.home import CHAT_HISTORY, adapters_dir, bases_dir, cache_dir, discard, home, runs_dir
from kameleon.home_format import backups
from kameleon.scratch import in_use
from kameleon.training import has_checkpoint

Kind = Literal["runs", "caches", "versions", "unfinished", "history", "backups"]
USUAL: tuple[Kind, ...] = ("runs", "caches", "versions")
"""What nobody needs to go on. The history is what a person typed in chat, unfinished runs could be resumed, and backups
are copies from before a migration."""


@dataclass(frozen=True)
class Leftover:
    """Something that can be deleted. `delete` raises OSError or AdapterError."""

    kind: Kind
    name: str
    path: Path
    size_bytes: int
    delete: Callable[[], None]


def leftovers() -> list[Leftover]:
    """All that can be deleted: runs, interrupted ones too, caches, versions that are not current, history, backups."""
    typed = [path for path in (home() / CHAT_HISTORY,) if path.exists()]
    others = [*(_folder("history", path) for path in typed), *(_folder("backups", path) for path in backups())]
    return [*_runs(), *_caches(), *_versions(), *others]


def disk_use() -> dict[str, int]:
    """Bytes of each part of the home and of the hub's cache, and what is free on the home's disk."""
    parts = {"adapters": adapters_dir(), "runs": runs_dir(), "bases": bases_dir(), "cache": cache_dir()}
    parts["hub_cache"] = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (home(), *home().absolute().parents) if folder.exists())
    return {name: disk_bytes(path) if path.exists() else 0 for name, path in parts.items()} | {
        "free": shutil.disk_usage(place).free
    }


def _folder(kind: Kind, path: Path) -> Leftover:
    return Leftover(kind, path.name, path, disk_bytes(path), partial(_delete, path))


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        discard(path)


def _runs() -> Iterator[Leftover]:
    """Runs that nobody trains in now."""
    for path in _children(runs_dir()):
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            with lock:
                kind: Kind = "unfinished" if has_checkpoint(path) else "runs"
        except (Timeout, OSError):
            continue
        yield Leftover(kind, path.name, path, disk_bytes(path), partial(_delete_run, path, lock))


def _delete_run(path: Path, lock: FileLock) -> None:
    try:
        with lock:
            _delete(path)
    except Timeout as error:
        raise OSError(f"a process trains in {path} now") from error


def _caches() -> Iterator[Leftover]:
    return (_folder("caches", path) for path in _children(cache_dir()) if not in_use(path))


def _versions() -> Iterator[Leftover]:
    shelf = Shelf()
    for name in shelf.names():
        try:
            earlier = [one for one in shelf.history(name) if not one.current and one.version is not None]
        except AdapterError:  # broken: only a person can say which version is meant
            continue
        for one in earlier:
            delete = partial(shelf.remove_version, name, int(one.version or 0))
            yield Leftover("versions", f"{name} {one.version}", one.path, one.bytes, delete)


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
