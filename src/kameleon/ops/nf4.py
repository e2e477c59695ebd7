"""NF4, the 4-bit normal float of QLoRA (Dettmers et al., 2023, arXiv:2305.14314), quantised twice.

A stored row is one fp32 scale, then for each block of 64 numbers a byte, which scales it again, and 32 bytes with
numbers i and i + 32 in their lower and upper halves: 4.13 bits a number. Number = VALUES[four bits] · (scale · byte).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # numbers of a block; a row is a whole number of blocks
_BYTES = 33
_TINY = torch.finfo(torch.float32).tiny

VALUES = torch.tensor(
    [
        *(-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0),
    ]
)
"""Quantiles of the normal distribution, so that each is used about as often (the paper's appendix E)."""


def row_bytes(columns: int) -> int:
    """Bytes of a stored row."""
    return 4 + columns // BLOCK * _BYTES


def pack(weight: Tensor) -> Tensor:
    """A matrix [out, in] as stored rows: uint8 [out, row_bytes(in)]; `in` is a multiple of 64, all numbers finite.

    Each block is quantised by its largest number, and these of a row, in 8 bits, by the largest of all.
    """
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    largest = blocks.abs().amax(2)
    scale = largest.amax(1, keepdim=True) / 255
    codes = (largest / scale.clamp(min=_TINY)).round().clamp(1, 255)
    borders = (VALUES[1:] + VALUES[:-1]) / 2
    low, high = torch.bucketize(blocks / (scale * codes).clamp(min=_TINY)[:, :, None], borders).byte().chunk(2, dim=2)
    body = torch.cat([codes.byte()[:, :, None], low | high << 4], dim=2).flatten(1)
    return torch.cat([scale.view(torch.uint8), body], dim=1)


def unpack(rows: Tensor) -> Tensor:
    """Stored rows as fp32 numbers [n, columns]."""
    blocks = rows[:, 4:].unflatten(1, (-1, _BYTES))
    largest = rows[:, :4].clone(memory_format=torch.contiguous_format).view(torch.float32) * blocks[:, :, 0].float()
    codes = torch.cat([blocks[:, :, 1:] & 15, blocks[:, :, 1:] >> 4], dim=2)
    return (largest[:, :, None] * VALUES[codes.int()]).flatten(1)
