"""The type to multiply in, chosen by measuring: a CPU without bf16 units multiplies bf16 many times slower."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kameleon.ops.products import multiply

_WORTH_IT = 1.3  # how much faster bf16 must be
_ROWS, _SIZE, _TURNS = 256, 512, 12


@dataclass(frozen=True)
class ComputeType:
    dtype: torch.dtype
    reason: str


def _gflops(dtypes: Sequence[torch.dtype]) -> list[float]:
    """Billions of operations a second for the two products of a frozen layer: forward and input gradient.

    The best of many short turns, taken one after the other, so that other programs disturb all types or none.
    """
    pairs = [
        (torch.full((_ROWS, _SIZE), 0.5, dtype=dtype), torch.full((_SIZE, _SIZE), 0.5, dtype=dtype)) for dtype in dtypes
    ]

    def once(x: Tensor, w: Tensor) -> float:
        start = time.perf_counter()
        _products(x, w)
        return time.perf_counter() - start

    taken = [[once(*pair) for pair in pairs] for _ in range(_TURNS + 1)][1:]  # the first warms up
    return [2 * 2 * _ROWS * _SIZE * _SIZE / min(turns) / 1e9 for turns in zip(*taken, strict=True)]


def _products(x: Tensor, w: Tensor) -> Tensor:
    return multiply(multiply(x, w.T), w)


@lru_cache(maxsize=1)
def measure_compute_type() -> ComputeType:
    """bf16 where this machine has units for it, else fp32; measured once per process (under a second).

    With such units bf16 is several times faster. Without, both are about as fast, and fp32 is the more exact.
    """
    fp32, bf16 = _gflops((torch.float32, torch.bfloat16))
    chosen, name = (torch.bfloat16, "bf16") if bf16 > _WORTH_IT * fp32 else (torch.float32, "fp32")
    return ComputeType(chosen, f"{name}: measured here, bf16 {bf16:.0f} and fp32 {fp32:.0f} GFLOP/s")
