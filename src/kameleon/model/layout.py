"""All projections of a decoder: which share their input and are multiplied as one, their names and their shapes."""

from __future__ import annotations

from functools import lru_cache

from kameleon.model.blocks import Attention, Mlp
from kameleon.model.config import DecoderConfig
from kameleon.model.projections import Group, Member
from kameleon.weights import ModuleName


@lru_cache
def groups(config: DecoderConfig) -> tuple[Group, ...]:
    """The joined projections of every layer, in the order in which a token meets them."""
    return (*Attention.groups(config), *Mlp.groups(config))


def module_names(config: DecoderConfig) -> list[ModuleName]:
    """Every projection that can carry an adapter, in layer order."""
    members = [member.name for group in groups(config) for member in group.members]
    return [ModuleName(layer, member) for layer in range(config.num_layers) for member in members]


def find_member(config: DecoderConfig, name: str) -> tuple[Group, Member]:
    """The group and the member of a projection, by its name inside a layer."""
    return next((group, member) for group in groups(config) for member in group.members if member.name == name)


def module_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every projection that can carry an adapter, in layer order."""
    return {
        str(ModuleName(layer, member.name)): (member.size, group.in_size)
        for layer in range(config.num_layers)
        for group in groups(config)
        for member in group.members
    }
