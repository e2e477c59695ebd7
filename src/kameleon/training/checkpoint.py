"""All that a run needs to go on to the same bits, in one file that is replaced whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kameleon.errors import CheckpointError
from kameleon.home import atomic_write
from kameleon.training.step import Trainee

_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` steps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    looks_without_best: int = 0


def save_checkpoint(folder: Path, trainee: Trainee, progress: Progress, identity: dict[str, Any]) -> None:
    """Write weights, optimiser state and progress. `identity` says which run this is; resuming compares it.

    Raises CheckpointError (disk full, read-only folder); the checkpoint before it is then still whole.
    """
    adamw = trainee.adamw
    tensors = {"weights": adamw.parameters, "mean": adamw.mean, "square": adamw.square}
    metadata = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(identity), "updates": str(adamw.steps)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _FILE) as file:
            save_file(tensors, file.name, metadata)  # without a copy in memory, three times the adapter
    except (SafetensorError, OSError) as error:
        last = " (the one before it is intact)" if (folder / _FILE).exists() else ""
        raise CheckpointError(
            f"cannot write the checkpoint of step {progress.step} to {folder}{last}: {error}"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    return (folder / _FILE).exists()


def saved_identity(folder: Path) -> dict[str, Any]:
    """Which run a folder's checkpoint belongs to; empty where there is none, or none that can be read."""
    try:
        with safe_open(folder / _FILE, "pt") as file:
            return json.loads(file.metadata()["identity"])
    except (SafetensorError, OSError):
        return {}  # `load_checkpoint` says what is wrong


def load_checkpoint(folder: Path, trainee: Trainee, identity: dict[str, Any]) -> Progress:
    """Put the run back to where its last checkpoint was.

    Raises CheckpointError when there is none, when it is damaged, or when it belongs to a run with other settings or
    data; the message names what differs.
    """
    path = folder / _FILE
    if not path.exists():
        raise CheckpointError(f"nothing to resume: there is no {path}; start the run without --resume")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}; start again with --overwrite") from error
    saved = json.loads(metadata["identity"])
    differing = sorted(key for key in saved.keys() | identity.keys() if saved.get(key) != identity.get(key))
    if differing:
        told = "; ".join(f"{key}: was {saved.get(key)!r}, is {identity.get(key)!r}" for key in differing)
        raise CheckpointError(f"this is not the run that was interrupted ({told}); resume it unchanged, or --overwrite")
    adamw = trainee.adamw
    with torch.no_grad():
        for name, target in (("weights", adamw.parameters), ("mean", adamw.mean), ("square", adamw.square)):
            target.copy_(tensors[name])
    adamw.steps = int(metadata["updates"])
    return Progress(**json.loads(metadata["progress"]))


def remove_checkpoint(folder: Path) -> None:
    """Forget the run's state; what it produced stays."""
    (folder / _FILE).unlink(missing_ok=True)
