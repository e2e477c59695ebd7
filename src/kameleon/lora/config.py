"""Which modules get a side path, and what kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kameleon.errors import LoraError


@dataclass(frozen=True)
class LoraConfig:
    """LoRA for any torch module (Hu et al., 2021, arXiv:2106.09685)."""

    targets: tuple[str, ...] = ("all-linear",)
    """Names (the end of a dotted name), globs, or "all-linear": every linear layer but the output head."""
    rank: int = 8
    """Width of the side path."""
    alpha: float = 16.0
    """The side path is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the side path's input that is dropped in training; the frozen path never is."""
    rslora: bool = False
    """Scale by alpha / √rank instead (arXiv:2312.03732)."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other ranks for modules whose name matches, like `targets`."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            raise LoraError(f"targets is one string; give a tuple: ({self.targets!r},)")
        if not self.targets:
            raise LoraError("targets is empty; name modules, give a glob, or 'all-linear'")
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if not isinstance(rank, int) or rank < 1:
                raise LoraError(f"{name} is {rank!r}; a rank is a whole number of at least 1")
        if not self.alpha > 0:
            raise LoraError(f"alpha is {self.alpha}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise LoraError(f"dropout is {self.dropout}; it must be a share from 0 to below 1")

    def scaling(self, rank: int) -> float:
        """alpha / rank, or alpha / √rank."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)
