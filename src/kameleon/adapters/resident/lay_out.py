"""An adapter's numbers laid out beside a base: the factors of joined projections next to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors
from kameleon.adapters.resident.dora import renew_norms
from kameleon.adapters.resident.resident import Resident
from kameleon.bases import Base
from kameleon.model import AdaptedEnd, Group, Member, groups
from kameleon.ops import Branch, SidePath
from kameleon.weights import EMBEDDING, FrozenWeight, ModuleName

_Present = list[tuple[Member, str, LoraFactors]]
"""The projections of one group that an adapter touches, with their names and factors."""


def _touched(base: Base, adapter: Adapter) -> dict[tuple[int, str], _Present]:
    """By layer and group, in the order in which the base runs them."""
    return {
        (layer, group.name): present
        for layer in range(base.config.num_layers)
        for group in groups(base.config)
        if (present := [one for m in group.members if (one := _of_member(adapter, layer, m, group)) is not None])
    }


def trainable(base: Base, adapter: Adapter) -> Resident:
    """A copy whose numbers lie in one flat fp32 tensor, so that an optimiser steps on all of them at once."""
    touched = _touched(base, adapter)
    trained = ([f.a, f.b, *([] if f.magnitude is None else [f.magnitude])] for p in touched.values() for _, _, f in p)
    flat = torch.empty(sum(tensor.numel() for tensors in trained for tensor in tensors))
    at = 0

    def place(values: Tensor) -> Tensor:
        nonlocal at
        view = flat[at : at + values.numel()].view(values.shape)
        view.copy_(values)
        at += values.numel()
        return view

    paths: dict[tuple[int, str], SidePath] = {}
    modules: dict[str, LoraFactors] = {}
    for path, present in touched.items():
        paths[path] = side = _side_path(base, adapter, path, present, place)
        for (_, name, factors), branch, ranks in zip(present, side.branches, side.ranks, strict=True):
            if name in adapter.modules:
                modules[name] = replace(factors, a=side.a[ranks], b=branch.b, magnitude=branch.magnitude)
    return Resident(adapter.name, adapter.card, flat, paths, modules, adapted_ends(base, adapter))


def adapted_ends(base: Base, adapter: Adapter) -> dict[str, AdaptedEnd]:
    """The embedding and the head as the adapter changes them, by name."""
    return {name: _lay_out_end(base, name, end) for name, end in adapter.ends.items()}


def _lay_out_end(base: Base, name: str, end: EndChange) -> AdaptedEnd:
    own, dtype = base.decoder.embedding if name == EMBEDDING else base.decoder.head, base.compute_dtype
    # PEFT writes the frozen embedding under its factors; one that equals the base's replaces nothing.
    instead = None if end.instead is None or torch.equal(own.dense(), end.instead.to(dtype)) else end.instead
    weight = own if instead is None else FrozenWeight(instead.to(dtype, copy=True), dtype=dtype)
    held = 0 if instead is None else instead.numel()
    if end.factors is None:
        return AdaptedEnd(weight, held_numbers=held)
    a, b = end.factors.a, end.factors.b
    if name == EMBEDDING:  # a row of B is looked up, and multiplied with A
        a = a.T
    a_weight, b_weight = (FrozenWeight(f.to(dtype, copy=True).contiguous(), dtype=dtype) for f in (a, b))
    return AdaptedEnd(weight, a_weight, b_weight, end.factors.scaling, held + a.numel() + b.numel())


def side_paths(base: Base, adapter: Adapter) -> dict[tuple[int, str], SidePath]:
    """Side paths by layer and group that use the adapter's own tensors where they can."""
    return {path: _side_path(base, adapter, path, present) for path, present in _touched(base, adapter).items()}


def _side_path(
    base: Base,
    adapter: Adapter,
    path: tuple[int, str],
    present: _Present,
    place: Callable[[Tensor], Tensor] = lambda values: values,
) -> SidePath:
    """The joined side path of one group; `place` copies numbers to their memory."""
    several = [factors.a for _, _, factors in present]
    a, branches = place(several[0] if len(several) == 1 else torch.cat(several)), []
    for member, name, factors in present:
        b = place(factors.b)
        magnitude = None if factors.magnitude is None else place(factors.magnitude)
        norm = None if magnitude is None else torch.empty_like(magnitude)
        shift = _shift(base, name, factors, adapter.biases.get(name))
        branches.append(Branch(b, member.start, member.stop, factors.scaling, magnitude, norm, shift))
    side = SidePath(a, tuple(branches))
    renew_norms(base, *path, side)
    return side


def _of_member(adapter: Adapter, layer: int, member: Member, group: Group) -> tuple[Member, str, LoraFactors] | None:
    """A projection with its name and factors, if the adapter touches it; zeros where it only replaces the bias."""
    name = str(ModuleName(layer, member.name))
    if name in adapter.modules:
        return member, name, adapter.modules[name]
    if name in adapter.biases:
        nothing = LoraFactors(torch.zeros(1, group.in_size), torch.zeros(member.stop - member.start, 1), 1.0)
        return member, name, nothing
    return None


def _shift(base: Base, module: str, factors: LoraFactors, bias: Tensor | None) -> Tensor | None:
    """The change of the module's output; the base's own bias is subtracted, since the decoder adds it."""
    shift = None if factors.b_bias is None else factors.scaling * factors.b_bias
    if bias is not None:
        instead = bias - base.weights.tensor(f"{module}.bias").float()
        shift = instead if shift is None else shift + instead
    return shift
