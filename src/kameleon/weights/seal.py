"""A safetensors file with a checksum of all its bytes in its own metadata: a bit that changes on the disk is found."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

from kameleon.errors import WeightsError
from kameleon.weights.safetensors_header import header_end, parse_header

_SHA256, _SEALED = "sha256", "sealed"
_OPEN = "0" * 64
UNSEALED = {_SHA256: _OPEN, _SEALED: "the sha256 of this file with 64 zeros in the place of the sha256"}
"""Metadata that a file is written with before `seal`. Two keys, so that damage to one does not hide the other."""
_CHUNK_BYTES = 16 << 20


def seal(file: IO[bytes]) -> None:
    """Write the checksum into a whole file that is open for reading and writing. Raises OSError."""
    begin = _begin(file)
    digest = _digest(file, begin)
    file.seek(begin.index(_OPEN.encode()))
    file.write(digest.encode())


def check_seal(path: Path) -> dict[str, str]:
    """The file's metadata, when its bytes have their checksum. A file of an earlier version has none.

    Raises WeightsError for a damaged file, OSError for one that cannot be read.
    """
    with path.open("rb") as file:
        begin = _begin(file)
        metadata = parse_header(begin, os.fstat(file.fileno()).st_size).metadata
        given = metadata.get(_SHA256)
        if given is None and _SEALED not in metadata:
            return metadata
        if given is None or given != _digest(file, begin.replace(given.encode(), _OPEN.encode(), 1)):
            raise WeightsError("its bytes do not have their checksum")
        return metadata


def _begin(file: IO[bytes]) -> bytes:
    file.seek(0)
    prefix = file.read(8)
    return prefix + file.read(header_end(prefix, os.fstat(file.fileno()).st_size) - len(prefix))


def _digest(file: IO[bytes], begin: bytes) -> str:
    """Of `begin` and of what follows it in the file, which has been read so far."""
    digest = hashlib.sha256(begin)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
