"""Bases that Kameleon fetched, deleted from this machine. A person's own folders and files are never touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from kameleon.bases.catalogue import CATALOGUE
from kameleon.bases.fetch import list_bases
from kameleon.errors import SettingError
from kameleon.home import bases_dir, discard
from kameleon.words import did_you_mean


@dataclass(frozen=True)
class Fetched:
    """A base that was fetched: what deleting it takes away."""

    ref: str
    paths: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return sum(disk_bytes(path) for path in self.paths)

    def delete(self) -> None:
        """Delete all of it. Raises OSError."""
        for path in self.paths:
            discard(path)


def fetched_base(ref: str) -> Fetched:
    """The files of a base of the catalogue, a hub id, or a `.gguf` file in Kameleon's own folder.

    Raises SettingError for a base that is not here, and for a file or folder that Kameleon did not fetch.
    """
    found = [files for files in list_bases() if files.ref == ref]
    hub_id = CATALOGUE[ref].hub_id if ref in CATALOGUE else ref
    cached = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    own = [part for files in found if files.path.parent == bases_dir() for part in files.parts()]
    notes = [note for part in own if (note := part.with_name(f".{part.name}.fingerprint.json")).exists()]
    in_hub = [cached] if hub_id.count("/") == 1 and not Path(ref).exists() and cached.is_dir() else []
    if paths := (*own, *notes, *in_hub):
        return Fetched(ref, paths)
    if Path(ref).expanduser().exists():
        raise SettingError(f"{ref} was not fetched by Kameleon: delete it yourself if you do not need it any more")
    here = [files.ref for files in list_bases()]
    hint = did_you_mean(ref, here)
    raise SettingError(f"no base {ref!r} is on this machine: {hint and hint + ' '}here are {', '.join(here) or 'none'}")


def disk_bytes(path: Path) -> int:
    """What a file, or all files in a folder, take on the disk; links count nothing."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
