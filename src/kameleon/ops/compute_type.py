"""The type to multiply in, chosen by measuring: a CPU without bf16 units multiplies bf16 many times slower."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kameleon.ops.products import multiply

_WORTH_IT = 1.3  # how much faster bf16 must be
_ROUNDS = 10  # both types in turn, the best of each: something else may run for a moment


@dataclass(frozen=True)
class ComputeType:
    dtype: torch.dtype
    reason: str


def _gflops() -> dict[torch.dtype, float]:
    """Billions of operations a second for the two products of a frozen layer: forward and input gradient."""
    rows, size = 256, 512
    pairs = {
        dtype: (torch.full((rows, size), 0.5, dtype=dtype), torch.full((size, size), 0.5, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(_ROUNDS):
        for dtype, (x, w) in pairs.items():
            start = time.perf_counter()
            _products(x, w)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return {dtype: 2 * 2 * rows * size * size / seconds / 1e9 for dtype, seconds in best.items()}


def _products(x: Tensor, w: Tensor) -> Tensor:
    return multiply(multiply(x, w.T), w)


@lru_cache(maxsize=1)
def measure_compute_type() -> ComputeType:
    """bf16 where this machine has units for it, else fp32; measured once per process (under a second).

    With such units bf16 is several times faster. Without, both are about as fast, and fp32 is the more exact.
    """
    speeds = _gflops()
    fp32, bf16 = speeds[torch.float32], speeds[torch.bfloat16]
    chosen, name = (torch.bfloat16, "bf16") if bf16 > _WORTH_IT * fp32 else (torch.float32, "fp32")
    return ComputeType(chosen, f"{name}: measured here, bf16 {bf16:.0f} and fp32 {fp32:.0f} GFLOP/s")
