"""Which projections a decoder layer has, and which of them share their input and are multiplied as one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from kameleon.model.config import DecoderConfig
from kameleon.weights import ModuleName


@dataclass(frozen=True)
class Member:
    """One projection: its name inside the layer, and its rows `start:stop` of the joined output."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Group:
    """Projections of one layer that share their input, joined along the output."""

    name: str
    in_size: int
    members: tuple[Member, ...]


def _group(name: str, in_size: int, *members: tuple[str, int]) -> Group:
    joined, at = [], 0
    for member, out_size in members:
        joined.append(Member(member, at, at + out_size))
        at += out_size
    return Group(name, in_size, tuple(joined))


@lru_cache
def groups(config: DecoderConfig) -> tuple[Group, ...]:
    """The four joined projections of every layer, in the order in which a token meets them."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    size, wide = config.hidden_size, config.intermediate_size
    return (
        _group("qkv", size, ("self_attn.q_proj", heads), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)),
        _group("o", heads, ("self_attn.o_proj", size)),
        _group("gate_up", size, ("mlp.gate_proj", wide), ("mlp.up_proj", wide)),
        _group("down", wide, ("mlp.down_proj", size)),
    )


def module_names(config: DecoderConfig) -> list[ModuleName]:
    """Every projection that can carry an adapter, in layer order."""
    members = [member.name for group in groups(config) for member in group.members]
    return [ModuleName(layer, member) for layer in range(config.num_layers) for member in members]


def find_member(config: DecoderConfig, name: str) -> tuple[Group, Member]:
    """The group and the member that a projection's name inside a layer means."""
    return next((group, member) for group in groups(config) for member in group.members if member.name == name)


def module_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every projection that can carry an adapter, in layer order."""
    return {
        str(ModuleName(layer, member.name)): (member.stop - member.start, group.in_size)
        for layer in range(config.num_layers)
        for group in groups(config)
        for member in group.members
    }
