"""Which modules get a side path, and what kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kameleon.errors import LoraError

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """LoRA for any torch module (Hu et al., 2021, arXiv:2106.09685). Raises LoraError for an impossible setting."""

    targets: Sequence[str] = (ALL_LINEAR,)
    """Ends of dotted names ("query", "layer.1.dense"), globs over whole names ("*.layer.1.*"), or "all-linear": every
    linear layer but the output head that a transformers model declares and the inside of nn.MultiheadAttention. A
    warning names matrices that are no layers of their own, such as the experts of a mixture: they are left out."""
    rank: int = 8
    """Width of the side path."""
    alpha: float = 16.0
    """The side path is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the side path's input that is dropped in training; the frozen path never is."""
    rslora: bool = False
    """Scale by alpha / √rank instead (arXiv:2312.03732)."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other ranks for modules whose name fits, in the words of `targets`; the first that fits counts."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Other alphas, in the same way."""

    def __post_init__(self) -> None:
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        if not targets or not all(isinstance(target, str) and target for target in targets):
            raise LoraError(f"targets is {self.targets!r}; name modules, give globs, or '{ALL_LINEAR}'")
        for name, rank in {"rank": self.rank, **_named("rank_pattern", self.rank_pattern)}.items():
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise LoraError(f"{name} is {rank!r}; a rank is a whole number of at least 1")
        for name, alpha in {"alpha": self.alpha, **_named("alpha_pattern", self.alpha_pattern)}.items():
            if not (_is_number(alpha) and 0 < alpha < math.inf):
                raise LoraError(f"{name} is {alpha!r}; it must be a number above 0")
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise LoraError(f"dropout is {self.dropout!r}; it must be a share from 0 to below 1")

    def scaling(self, rank: int, alpha: float) -> float:
        """alpha / rank, or alpha / √rank."""
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _named(setting: str, pattern: Mapping[str, float]) -> dict[str, float]:
    return {f"{setting} of {key!r}": value for key, value in pattern.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
