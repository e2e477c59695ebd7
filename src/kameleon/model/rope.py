"""Frequencies of the rotary embedding, with the scalings that extend a base to longer texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.errors import WeightsError


@dataclass(frozen=True)
class RopeConfig:
    """`kind` is default, linear, llama3 or yarn; fields that a kind does not use keep their defaults.

    Raises WeightsError for numbers that give no frequencies.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None derives it from `factor`
    divisors: tuple[float, ...] = ()  # a GGUF file stores llama3's scaling as one divisor for each frequency

    def __post_init__(self) -> None:
        floors = {"theta": 1, "factor": 0, "beta_fast": 0, "beta_slow": 0}
        for name, floor in floors.items():
            if getattr(self, name) <= floor:
                raise WeightsError(f"the rotary embedding's {name} is {getattr(self, name)}; it must be above {floor}")
        if not all(divisor > 0 for divisor in self.divisors):
            raise WeightsError("the rotary embedding's divisors (rope_freqs.weight) must all be above 0")


def inv_freq(rope: RopeConfig, head_dim: int) -> Tensor:
    """[head_dim / 2] fp32: the angle by which one position rotates each pair, theta^(−2i/head_dim), scaled by `kind`.

    llama3: Llama 3.1's smooth ramp between kept and divided frequencies. yarn: arXiv:2309.00071, section 3.2.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.divisors:
        return plain / torch.tensor(rope.divisors)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        rounds = rope.original_max_positions * plain / (2 * math.pi)  # full rotations within the original length
        keep = (rounds - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = keep.clamp(0, 1)
        return plain / rope.factor * (1 - keep) + plain * keep
    if rope.kind == "yarn":
        return _yarn(rope, head_dim, plain)
    return plain


def _yarn(rope: RopeConfig, head_dim: int, plain: Tensor) -> Tensor:
    def pair_with_rounds(rounds: float) -> float:
        ratio = rope.original_max_positions / (rounds * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rope.theta))

    low = max(math.floor(pair_with_rounds(rope.beta_fast)), 0)
    high = min(math.ceil(pair_with_rounds(rope.beta_slow)), head_dim - 1)
    divided = ((torch.arange(head_dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / rope.factor * divided + plain * (1 - divided)


def attention_factor(rope: RopeConfig) -> float:
    """The factor of cos and sin: 1, except for yarn's 0.1 · ln(factor) + 1."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0
