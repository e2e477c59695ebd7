"""The state with which a run goes on to the same bits, in one file that is replaced whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kameleon.errors import CheckpointError, TrainingError, WeightsError
from kameleon.home import atomic_write
from kameleon.ops import COMPUTE_TYPES
from kameleon.settings import ComputeName
from kameleon.training.trainee import Trainee
from kameleon.weights.safetensors_header import header_bytes
from kameleon.weights.seal import UNSEALED, check_seal, seal

_FILE = "checkpoint.safetensors"
FORMAT = 1
"""The version of a run's identity. A checkpoint with another number has other keys, and is refused."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` steps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    looks_without_best: int = 0
    looked_step: int = 0
    """The step of the last look at the held-out rows."""


def save_checkpoint(folder: Path, trainees: Sequence[Trainee], progress: Progress, identity: dict[str, Any]) -> None:
    """Write weights, optimiser state and progress. `identity` says which run this is; `load_checkpoint` compares it.

    Raises CheckpointError (disk full, read-only folder); the last checkpoint is then still whole.
    """
    tensors = {key: tensor for at, one in enumerate(trainees) for key, tensor in _tensors(one, at).items()}
    metadata = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(identity), **UNSEALED}
    metadata |= {_key("updates", at): str(one.adamw.steps) for at, one in enumerate(trainees)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _FILE) as file:
            file.write(header_bytes({key: ("F32", tuple(t.shape), t.nbytes) for key, t in tensors.items()}, metadata))
            for tensor in tensors.values():  # without a copy in memory, three times the adapter
                file.write(tensor.detach().numpy().data)
            seal(file)
    except OSError as error:
        last = " (the one before it is intact)" if (folder / _FILE).exists() else ""
        raise CheckpointError(
            f"cannot write the checkpoint of step {progress.step} to {folder}{last}: {error}"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether the run's folder holds a checkpoint."""
    return (folder / _FILE).exists()


def require_checkpoint(folder: Path) -> Path:
    """The checkpoint in the run's folder. Raises CheckpointError when there is none."""
    path = folder / _FILE
    if not path.exists():
        raise CheckpointError(
            f"nothing to resume: there is no {path}, so the run has not begun, has ended (`Shelf().names()` "
            "shows its adapter), or another process trains and has saved nothing yet; start it without `resume=True`"
        )
    return path


def require_no_checkpoint(folder: Path) -> None:
    """Raise TrainingError if the run's folder holds an unfinished run."""
    if has_checkpoint(folder):
        raise TrainingError(
            f"{folder} holds an unfinished run: `resume=True` goes on with it, `overwrite=True` drops it"
        )


def saved_identity(folder: Path) -> dict[str, Any]:
    """The identity of the run whose checkpoint is in `folder`; {} if there is none.

    Raises CheckpointError for a checkpoint that is damaged, or of another version of Kameleon.
    """
    return _identity(_checked(folder / _FILE)) if has_checkpoint(folder) else {}


def resumed_compute(folder: Path, compute: ComputeName | None) -> ComputeName | None:
    """The compute type of the unfinished run in `folder`; `compute` if its checkpoint does not say it.

    Raises CheckpointError when there is no such run, when `compute` differs from the run's type, and for a checkpoint
    of another version.
    """
    require_checkpoint(folder)
    began = saved_identity(folder).get("compute", compute)
    if compute not in (None, began):
        raise CheckpointError(
            f"the run in {folder} computes in {began}, not in {compute}: go on with "
            f"`dtype={COMPUTE_TYPES[began]}`, or start again with `overwrite=True`"
        )
    return began


@contextmanager
def resumed_threads(folder: Path) -> Iterator[None]:
    """Inside the block compute with the number of threads that the folder's checkpoint names."""
    before = torch.get_num_threads()
    count = saved_identity(folder).get("threads", before)
    if count != before:
        warnings.warn(f"the run goes on with as many threads as it began with: {count}, not {before}", stacklevel=2)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(path: Path) -> dict[str, str]:
    """The checkpoint's metadata. Raises CheckpointError if a byte of the file is another than was written."""
    try:
        return check_seal(path)
    except (WeightsError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged: {error}; the run cannot go on from it: start again with "
            "`overwrite=True`"
        ) from error


def _identity(metadata: dict[str, str]) -> dict[str, Any]:
    identity = json.loads(metadata.get("identity", "{}"))
    found = identity.get("format", 0)
    if found != FORMAT:
        which = "an earlier" if found < FORMAT else "a later"
        raise CheckpointError(f"this checkpoint was written by {which} Kameleon; start again with `overwrite=True`")
    return identity


def _differences(saved: dict[str, Any], identity: dict[str, Any]) -> str:
    """What differs between two runs, in words; "" if nothing does. Data is compared by its bytes, wherever it lies."""
    before, now = saved.get("data", {}), identity.get("data", {})
    told = []
    if before.get("sha256") != now.get("sha256"):
        told.append(
            f"the data has other bytes: was {before.get('path')} with sha256 {str(before.get('sha256'))[:12]}…, is "
            f"{now.get('path')} with {str(now.get('sha256'))[:12]}…"
        )
    else:
        # A checkpoint of an earlier version has no entry for what was added to the data's description since.
        keys = sorted((before.keys() | now.keys()) - {"path", "sha256"})
        changed = [key for key in keys if (before.get(key) or None) != (now.get(key) or None)]
        told += [f"{key} of the data: was {before.get(key)!r}, is {now.get(key)!r}" for key in changed]
        if not changed and saved.get("held_out") != identity.get("held_out"):
            told.append("the held-out rows are others")
    others = sorted((saved.keys() | identity.keys()) - {"data", "held_out"})
    differing = [key for key in others if saved.get(key) != identity.get(key)]
    return "; ".join([*told, *(f"{key}: was {saved.get(key)!r}, is {identity.get(key)!r}" for key in differing)])


def _key(name: str, trainee: int) -> str:
    """The first trainee's keys have no number; the second's are `weights.1` and so on."""
    return f"{name}.{trainee}" if trainee else name


def _tensors(trainee: Trainee, at: int) -> dict[str, Tensor]:
    adamw = trainee.adamw
    state = {"weights": adamw.parameters, "mean": adamw.mean, "square": adamw.square}
    return {_key(name, at): tensor for name, tensor in state.items()}


def load_checkpoint(folder: Path, trainees: Sequence[Trainee], identity: dict[str, Any]) -> Progress:
    """Set the trainees to the state of the last checkpoint, and return its progress.

    Raises CheckpointError when there is none, when it is damaged, or when it belongs to a run with other settings or
    data; the message names the differences.
    """
    path = require_checkpoint(folder)
    metadata = _checked(path)
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    saved = _identity(metadata)
    if told := _differences(saved, json.loads(json.dumps(identity))):
        raise CheckpointError(
            f"this is not the run that was interrupted ({told}); resume it unchanged, or start again with "
            "`overwrite=True`"
        )
    with torch.no_grad():
        for at, trainee in enumerate(trainees):
            for key, target in _tensors(trainee, at).items():
                target.copy_(tensors[key])
            trainee.adamw.steps = int(metadata[_key("updates", at)])
    return Progress(**json.loads(metadata["progress"]))


def remove_checkpoint(folder: Path) -> None:
    """Delete the run's state; its log and its adapter stay."""
    (folder / _FILE).unlink(missing_ok=True)
