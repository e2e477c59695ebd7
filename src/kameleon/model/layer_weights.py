"""The weights of one layer, read out of a base's files for its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.model.config import DecoderConfig
from kameleon.model.projections import Group, Member, Projections
from kameleon.weights import FrozenWeight, ModuleName, WeightFile


def read_norm(weights: WeightFile, config: DecoderConfig, *, name: str, size: int) -> Tensor:
    """A norm's weight as it is multiplied, [size] fp32. Raises WeightsError."""
    return weights.tensor(f"{name}.weight", (size,)).float() + config.norm_offset


@dataclass(frozen=True)
class LayerReader:
    """Reads one layer. Methods raise WeightsError for a tensor that is missing or of another shape."""

    config: DecoderConfig
    weights: WeightFile
    layer: int
    dtype: torch.dtype
    """The compute type."""

    def norm(self, name: str, size: int) -> Tensor:
        """A norm by its name inside the layer, [size] fp32."""
        return read_norm(self.weights, self.config, name=str(ModuleName(self.layer, name)), size=size)

    def norms(self, of_input: str, of_result: str | None) -> tuple[Tensor, Tensor | None]:
        """A block's norms of its input and, where there is one, of its result."""
        size = self.config.hidden_size
        return self.norm(of_input, size), None if of_result is None else self.norm(of_result, size)

    def projections(self, group: Group) -> Projections:
        """The weights of a group, joined, with the biases of those members that have one."""
        names = [ModuleName(self.layer, member.name) for member in group.members]
        matrices = (
            self.weights.matrix(name.weight, (member.size, group.in_size))
            for name, member in zip(names, group.members, strict=True)
        )
        weight = FrozenWeight(*matrices, dtype=self.dtype)
        if not any(member.name in self.config.biases for member in group.members):
            return Projections(group, weight)
        return Projections(group, weight, torch.cat([self._bias(member) for member in group.members]).to(self.dtype))

    def _bias(self, member: Member) -> Tensor:
        if member.name not in self.config.biases:
            return torch.zeros(member.size)
        return self.weights.tensor(ModuleName(self.layer, member.name).bias, (member.size,))
