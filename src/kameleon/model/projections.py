"""Projections of a layer that share their input: their shapes, and their product with side paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import LayerPages, Recomputed, Segments, SidePath, lora_linear
from kameleon.weights import FrozenWeight


@dataclass(frozen=True)
class Member:
    """One projection: its name inside the layer, and its rows `start:stop` of the joined output."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many outputs it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Group:
    """Projections of one layer that share their input, joined along the output."""

    name: str
    in_size: int
    members: tuple[Member, ...]

    @classmethod
    def of(cls, name: str, in_size: int, *members: tuple[str, int]) -> Group:
        """The group of these names and output sizes, in their order."""
        joined, at = [], 0
        for member, size in members:
            joined.append(Member(member, at, at + size))
            at += size
        return cls(name, in_size, tuple(joined))

    @property
    def out_size(self) -> int:
        """How many outputs its members have together."""
        return self.members[-1].stop


@dataclass(frozen=True, eq=False)
class LayerPass:
    """The values that both blocks of one layer need in one pass, beside their input."""

    segments: Segments
    rotation: tuple[Tensor, Tensor]
    """cos and sin of the layer's rotary embedding."""
    dtype: torch.dtype
    """The type of the layer's products."""
    sides: Callable[[str], Sequence[SidePath | None]]
    """The side paths in each slot for the group of a name."""
    pages: LayerPages | None
    """Keys and values of earlier tokens, in generation."""


@dataclass(frozen=True, eq=False)
class Projections:
    """The frozen weights of one group, multiplied as one."""

    group: Group
    weight: FrozenWeight
    bias: Tensor | None = None
    """[out], in the compute type."""

    def __call__(
        self,
        x: Tensor,
        at: LayerPass,
        *,
        before: Recomputed | None = None,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
        skip_output: bool = False,
    ) -> Tensor:
        """before(x) Wᵀ with the side paths, plus residual and bias, [tokens, out]; see `ops.lora_linear`."""
        sides = at.sides(self.group.name)
        y = lora_linear(
            x,
            self.weight,
            sides,
            at.segments,
            before=before,
            residual=residual,
            skip_output=skip_output,
            dtype=dtype,
        )
        return y if self.bias is None else y + self.bias
