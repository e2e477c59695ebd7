"""One hash over every tensor's name, shape, type and stored bytes.

It covers neither the config nor the tokenizer nor the chat template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kameleon.home import atomic_write, cache_dir

_CHUNK_BYTES = 16 << 20

FilesState = list[list[str | int]]
"""For each file: name, size, modification time, inode."""


def hash_tensors(tensors: Iterable[tuple[str, Sequence[int], str, memoryview]]) -> str:
    """sha256 over (name, shape, type, stored bytes) of each tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name, shape, kind, data in tensors:
        digest.update(json.dumps([name, list(shape), kind, len(data)]).encode())
        for start in range(0, len(data), _CHUNK_BYTES):
            digest.update(data[start : start + _CHUNK_BYTES])
    return f"sha256:{digest.hexdigest()}"


def state_of(files: Sequence[Path]) -> FilesState:
    """The state of each file; a file whose state is the same counts as unchanged."""
    stats = ((path.name, path.stat()) for path in files)
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats]


def cached_fingerprint(files: Sequence[Path]) -> str | None:
    """The fingerprint noted for exactly these files; None if there is no note, or if a file has changed since."""
    for place in _places(files):
        try:
            noted = json.loads(place.read_text())
            sha256 = _sha256(noted["files"], noted["fingerprint"])
            if noted["files"] == state_of(files) and noted.get("sha256", sha256) == sha256:  # early notes have none
                return str(noted["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no note, or a damaged one: the caller hashes again
    return None


def note_fingerprint(files: Sequence[Path], *, state: FilesState, fingerprint: str) -> None:
    """Keep the fingerprint beside the files, or in the cache if their folder is read-only.

    `state` was taken before the files were hashed, so that a file which changed meanwhile is hashed again.
    """
    noted = {"fingerprint": fingerprint, "files": state, "sha256": _sha256(state, fingerprint)}
    note = json.dumps(noted, indent=1).encode()
    for place in _places(files):
        try:
            with atomic_write(place) as file:
                file.write(note)
        except OSError:
            continue
        return


def _sha256(state: object, fingerprint: object) -> str:
    """Of a note: a damaged one would give a base another name."""
    return hashlib.sha256(json.dumps([state, fingerprint]).encode()).hexdigest()


def _places(files: Sequence[Path]) -> tuple[Path, Path]:
    first = files[0]
    whole = hashlib.sha256(str(first.resolve()).encode()).hexdigest()[:16]
    return first.parent / f".{first.name}.fingerprint.json", cache_dir() / f"{whole}.fingerprint.json"
