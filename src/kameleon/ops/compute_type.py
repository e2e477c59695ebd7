"""The type to multiply in, chosen by measuring: a CPU without bf16 units multiplies bf16 many times slower."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kameleon.ops.products import multiply

_WORTH_IT = 1.3  # how much faster bf16 must be
_ROWS, _SIZE, _TURNS = 256, 512, 12
_LONGEST_S = 0.3


@dataclass(frozen=True)
class ComputeType:
    dtype: torch.dtype
    reason: str


@lru_cache(maxsize=1)
def measure_compute_type() -> ComputeType:
    """bf16 where this machine has units for it, else fp32; measured once per process (under a second).

    With such units bf16 is several times faster. Without, both are about as fast, and fp32 is the more exact.
    """
    fp32_s, bf16_s = _best_seconds()
    chosen, name = (torch.bfloat16, "bf16") if fp32_s > _WORTH_IT * bf16_s else (torch.float32, "fp32")
    fp32, bf16 = (2 * 2 * _ROWS * _SIZE * _SIZE / seconds / 1e9 for seconds in (fp32_s, bf16_s))
    return ComputeType(chosen, f"{name}: measured here, bf16 {bf16:.0f} and fp32 {fp32:.0f} GFLOP/s")


def _best_seconds() -> tuple[float, float]:
    """In fp32 and in bf16, for the two products of a frozen layer: forward and input gradient.

    The best of many short turns, taken by turns. While bf16 does not win they go on for a while: a program that keeps
    the cores busy for a moment must not decide for the slower type.
    """
    fp32 = torch.full((_ROWS, _SIZE), 0.5), torch.full((_SIZE, _SIZE), 0.5)
    bf16 = fp32[0].bfloat16(), fp32[1].bfloat16()
    for pair in (fp32, bf16):
        _seconds(*pair)  # to warm up
    fp32_s = bf16_s = math.inf
    started = time.perf_counter()
    for turn in itertools.count(1):
        fp32_s, bf16_s = min(fp32_s, _seconds(*fp32)), min(bf16_s, _seconds(*bf16))
        has_won = turn >= _TURNS and fp32_s > _WORTH_IT * bf16_s
        if has_won or time.perf_counter() - started > _LONGEST_S:
            break
    return fp32_s, bf16_s


def _seconds(x: Tensor, w: Tensor) -> float:
    start = time.perf_counter()
    _products(x, w)
    return time.perf_counter() - start


def _products(x: Tensor, w: Tensor) -> Tensor:
    return multiply(multiply(x, w.T), w)
