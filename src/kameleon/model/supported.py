"""Limits of the supported bases, and the list of families that every refusal adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.families import families
from kameleon.weights import Metadata

_MOST_LAYERS = 4096  # far beyond any real base, and few enough to list


@contextmanager
def naming_families() -> Iterator[None]:
    """Adds the supported families to an UnsupportedArchitectureError that is raised inside."""
    try:
        yield
    except UnsupportedArchitectureError as error:
        known = "; ".join(f"{family.name} ({family.models})" for family in families().values())
        raise UnsupportedArchitectureError(f"{error}; supported families: {known}") from None


def count_layers(values: Metadata, key: str) -> int:
    """The number of layers. Raises WeightsError for one that no base can have."""
    layers = values.size(key)
    if layers > _MOST_LAYERS:
        raise WeightsError(f"{key} in {values.where} is {layers}; at most {_MOST_LAYERS} layers are read")
    return layers
