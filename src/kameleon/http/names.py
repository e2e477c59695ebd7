"""Which adapter a request's `model` means."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from kameleon.http.errors import ApiError
from kameleon.http.keys import Key
from kameleon.words import did_you_mean

_LONGEST = 200  # characters that are compared for a hint: of megabytes that takes a second of pure Python


def base_name(ref: str) -> str:
    """What the base is called over HTTP: its short name, a hub id, or a file's or folder's own name."""
    path = Path(ref)
    return path.stem if path.suffix == ".gguf" else path.name if path.is_absolute() or path.is_dir() else ref


class Names(Protocol):
    """The adapters that there are."""

    def names(self) -> list[str]: ...

    def has(self, name: str) -> bool: ...


def adapter_of(model: str, base: str, adapters: Names, key: Key | None) -> str | None:
    """The adapter that `model` names: None for the base's own name, else an adapter's, alone or as base:adapter.

    A name is only ever compared with the names that there are. Raises ApiError 404, naming the nearest; a key that is
    not for a model is told of no other than its own.
    """
    if model == base and (key is None or key.may_use(base)):
        return None
    name = model.removeprefix(f"{base}:")
    if (key is None or key.may_use(name)) and adapters.has(name):
        return name
    allowed = [name for name in adapters.names() if key is None or key.may_use(name)]
    hint = did_you_mean(name[:_LONGEST], [base, *allowed], cutoff=0.0) or "there is none for this key"
    raise ApiError(404, f"no model {model[:80]!r}: {hint} (GET /v1/models lists them)", "model_not_found", "model")
