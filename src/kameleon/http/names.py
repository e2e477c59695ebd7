"""Which adapter the `model` of a request names."""

from __future__ import annotations

from typing import Protocol

from kameleon.http.errors import ApiError
from kameleon.http.keys import Key
from kameleon.words import did_you_mean

_LONGEST = 200  # characters are compared for a hint; comparing megabytes would take a second


class Names(Protocol):
    """The adapters that exist."""

    def names(self) -> list[str]: ...

    def has(self, name: str) -> bool: ...


def adapter_of(model: str, base: str, *, adapters: Names, key: Key) -> str | None:
    """The adapter that `model` names: None for the base's own name, else an adapter's, alone or as base:adapter.

    A name is only compared with the names that exist. Raises ApiError 404 with the nearest name that the key may use.
    """
    if model == base and key.may_use(base):
        return None
    name = model.removeprefix(f"{base}:")
    if key.may_use(name) and adapters.has(name):
        return name
    allowed = [name for name in [base, *adapters.names()] if key.may_use(name)]
    hint = did_you_mean(name[:_LONGEST], allowed, cutoff=0.0) or "there is none for this key"
    raise ApiError(
        404, f"no model {model[:80]!r}: {hint} (GET /v1/models lists them)", code="model_not_found", param="model"
    )
