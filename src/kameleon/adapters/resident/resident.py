"""One adapter in memory beside a base: as fp32 numbers that can be trained, or frozen in the compute type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.card import Card
from kameleon.model import AdaptedEnd
from kameleon.ops import SidePath, SideTable
from kameleon.weights import EMBEDDING


@dataclass(frozen=True, eq=False)
class Resident:
    """One adapter in memory: all its numbers in `flat` [parameters] fp32, and the same memory as factors.

    Training steps on `flat`; the A factors of projections that share their input lie next to each other in it.
    """

    name: str
    card: Card
    flat: Tensor
    paths: dict[tuple[int, str], SidePath]
    modules: dict[str, LoraFactors]
    ends: dict[str, AdaptedEnd] = field(default_factory=dict)

    @property
    def lowest_layer(self) -> int:
        """The first layer that it changes; gradients need not go further down."""
        return lowest_layer(self.paths, self.ends)

    @property
    def bytes(self) -> int:
        """Memory that it holds beside the base's."""
        return self.flat.nbytes + sum(end.bytes for end in self.ends.values())

    def factors(self) -> list[Tensor]:
        """Every view of `flat` that autograd should see, in the order of `flat`."""
        return [tensor for side in self.paths.values() for tensor in side.trained]

    def snapshot(self, card: Card) -> Adapter:
        """A copy as a value, with a new card."""

        def copy(f: LoraFactors) -> LoraFactors:
            extras = {name: tensor.detach().clone() for name, tensor in f.extras.items()}
            return replace(f, a=f.a.detach().clone(), b=f.b.detach().clone(), **extras)

        copied = {name: copy(f) for name, f in self.modules.items()}
        return Adapter(self.name, copied, card)


@dataclass(frozen=True, eq=False)
class FrozenResident:
    """One adapter in memory that will not be trained: its factors in the compute type alone."""

    name: str
    card: Card
    table: SideTable
    ends: dict[str, AdaptedEnd]
    lowest_layer: int

    @property
    def bytes(self) -> int:
        """Memory that it holds beside the base's."""
        return self.table.bytes + sum(end.bytes for end in self.ends.values())


def lowest_layer(paths: Mapping[tuple[int, str], SidePath], ends: Mapping[str, AdaptedEnd]) -> int:
    """The first layer that is changed: 0 where the embedding is."""
    return 0 if EMBEDDING in ends else min((layer for layer, _ in paths), default=0)
