"""An adapter as a value: factors for each target module, and a card."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from kameleon.adapters.card import Card, Parent
from kameleon.arguments import check_types
from kameleon.errors import AdapterError


@dataclass(frozen=True, eq=False, repr=False)
class LoraFactors:
    """One module's side path: `a` [rank, in] and `b` [out, rank], both fp32, and what PEFT's variants add to them.

    `magnitude` [out] is DoRA's (arXiv:2402.09353): the rows of W + scaling · B A get these norms. `b_bias` [out] is
    added behind B, and scaled as it is (PEFT's lora_bias).
    """

    a: Tensor
    b: Tensor
    alpha: float
    rslora: bool = False
    magnitude: Tensor | None = None
    b_bias: Tensor | None = None

    def __repr__(self) -> str:
        return f"LoraFactors(rank={self.rank}, inputs={self.a.shape[1]}, outputs={len(self.b)}, alpha={self.alpha:g})"

    @property
    def rank(self) -> int:
        """The width of the side path: rows of A."""
        return self.a.shape[0]

    @property
    def scaling(self) -> float:
        """alpha / rank, or alpha / √rank with rsLoRA (arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def extras(self) -> dict[str, Tensor]:
        """What there is beside A and B, by field."""
        found = {"magnitude": self.magnitude, "b_bias": self.b_bias}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def tensors(self) -> list[Tensor]:
        """All numbers."""
        return [self.a, self.b, *self.extras.values()]

    def delta(self) -> Tensor:
        """What A and B add to the weight: scaling · B A, [out, in] fp32."""
        return self.scaling * (self.b @ self.a)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight that takes the place of `weight` [out, in]: W + scaling · B A, its rows brought to `magnitude`."""
        whole = weight + self.delta()
        return whole if self.magnitude is None else whole * (self.magnitude / whole.norm(dim=1))[:, None]


@dataclass(frozen=True, eq=False)
class EndChange:
    """What an adapter makes of the embedding or the head, W [vocab, hidden_size].

    `instead` stands in W's place (PEFT's modules_to_save; PEFT also writes the frozen matrix under an embedding's
    factors). `factors` add scaling · B A to it; of the embedding they are PEFT's B and A transposed.
    """

    instead: Tensor | None = None
    factors: LoraFactors | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All numbers."""
        return [*([] if self.instead is None else [self.instead]), *(self.factors.tensors if self.factors else [])]

    def merged(self, weight: Tensor) -> Tensor:
        """The matrix that takes the place of `weight` [vocab, hidden_size]."""
        whole = weight if self.instead is None else self.instead
        return whole if self.factors is None else self.factors.merged(whole)


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """Factors by Hugging Face module name (`model.layers.0.mlp.up_proj`). It does not load itself into anything.

    `biases` stand in the place of the base's own, by module (PEFT's bias modes). `ends` change the embedding and the
    head (`model.EMBEDDING`, `model.HEAD`).
    """

    name: str
    modules: dict[str, LoraFactors]
    card: Card
    biases: dict[str, Tensor] = field(default_factory=dict)
    ends: dict[str, EndChange] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        check_name(self.name)

    def __repr__(self) -> str:
        ranks = ", ".join(str(rank) for rank in sorted({factors.rank for factors in self.factors.values()}))
        return (
            f"Adapter(name={self.name!r}, base={self.card.base_id!r}, modules={len(self.modules) + len(self.ends)}, "
            f"rank={ranks or None}, parameters={self.parameters:,})"
        )

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        parts = (*self.modules.values(), *self.ends.values())
        return sum(t.numel() for t in (*(t for part in parts for t in part.tensors), *self.biases.values()))

    @property
    def factors(self) -> dict[str, LoraFactors]:
        """All factors by module, those of the embedding and the head too."""
        return self.modules | {name: end.factors for name, end in self.ends.items() if end.factors is not None}

    @property
    def dead_modules(self) -> list[str]:
        """Modules whose B is all zero: they change nothing."""
        return [name for name, f in self.factors.items() if not f.b.any() and f.b_bias is None]

    @property
    def variants(self) -> list[str]:
        """What there is in it beside A and B, in PEFT's words."""
        words = {"magnitude": "DoRA (use_dora)", "b_bias": "biases of B (lora_bias)"}
        found = {name for f in self.modules.values() for name in f.extras}
        more = {"biases of the base (bias)": self.biases, f"changes of {' and '.join(self.ends)}": self.ends}
        return [word for name, word in words.items() if name in found] + [word for word, has in more.items() if has]

    def require_plain(self, what: str) -> None:
        """Raise AdapterError unless every module is A and B alone, which is all that `what` can take."""
        if self.variants:
            raise AdapterError(
                f"adapter {self.name!r} has {', '.join(self.variants)}, and {what} takes A and B alone: merge it into "
                "a full model, and extract an adapter from that if need be"
            )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every module's name, rank, scaling and numbers; the card does not count."""
        digest = hashlib.sha256()
        for name, f in sorted(self.modules.items()):
            digest.update(json.dumps([name, f.rank, f.scaling, *f.extras]).encode())
            for tensor in f.tensors:
                digest.update(tensor.to(torch.float32).contiguous().numpy().tobytes())
        for name, bias in sorted(self.biases.items()):
            digest.update(json.dumps([name]).encode() + bias.to(torch.float32).contiguous().numpy().tobytes())
        for name, end in sorted(self.ends.items()):
            scaling = None if end.factors is None else end.factors.scaling
            digest.update(json.dumps([name, end.instead is not None, scaling]).encode())
            for tensor in end.tensors:
                digest.update(tensor.to(torch.float32).contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"

    def as_parent(self, weight: float, method: str) -> Parent:
        """What the card of an adapter computed from this one says about it."""
        return Parent(self.name, self.fingerprint, weight, method)


def check_name(name: str) -> str:
    """The name itself, if it can be a folder's name on any system. Raises AdapterError."""
    plain = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", name)
    if not plain or name.partition(".")[0].upper() in _DEVICES:
        raise AdapterError(
            f"{name!r} cannot name an adapter: use up to 64 letters from a to z or A to Z, digits, dots, dashes, "
            "underscores; no dot last"
        )
    return name


# What Windows takes for devices, with any suffix behind a dot.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
