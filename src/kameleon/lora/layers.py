"""Wrappers that keep a frozen layer inside and add its side path: linear, embedding, convolution.

Merging never writes into a weight: it puts W + delta in the frozen one's place and keeps that one aside, so unmerging
is exact to the bit, and a layer that shares its weight with another never changes the other.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kameleon.errors import LoraError


class LoraLayer(nn.Module):
    """y = base(x) + scaling · B(A(x)), with the base frozen and B zero at first.

    `lora_a` [rank, in…] and `lora_b` [out, rank] are fp32 or the base's type, whichever is wider.
    """

    def __init__(self, base: nn.Module, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        weight = cast(Tensor, base.weight)
        if not weight.is_floating_point():
            raise LoraError(f"a layer whose weight is {weight.dtype} cannot carry a side path; load it in a float type")
        self.base = base
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a_shape, b_shape = self._shapes(rank)
        self.lora_a = nn.Parameter(torch.zeros(a_shape, dtype=dtype, device=weight.device))
        self.lora_b = nn.Parameter(torch.zeros(b_shape, dtype=dtype, device=weight.device))
        self._aside: list[nn.Parameter] = []  # the frozen weight, while merged; in a list, so that it is no parameter
        self.reset()

    def reset(self) -> None:
        """A random (Kaiming uniform with a = √5, as in PEFT), B zero."""
        nn.init.kaiming_uniform_(self.lora_a.flatten(1), a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    @property
    def rank(self) -> int:
        return self.lora_b.shape[1]

    @property
    def merged(self) -> bool:
        return bool(self._aside)

    @property
    def set_aside(self) -> nn.Parameter | None:
        """The frozen weight while the merged one stands in its place."""
        return self._aside[0] if self._aside else None

    def delta(self) -> Tensor:
        """What the side path adds to the weight, in the weight's shape."""
        return (self.scaling * (self.lora_b @ self.lora_a.flatten(1))).view(self._weight.shape)

    def merge(self) -> float:
        """Put W + delta in the weight's place; returns the largest rounding error. A merged layer stays as it is."""
        if self.merged:
            return 0.0
        frozen, delta = self._weight, self.delta().detach()
        merged = nn.Parameter((frozen.to(delta.dtype) + delta).to(frozen.dtype), requires_grad=False)
        self._aside = [frozen]
        self.base.weight = merged
        return float((merged.double() - frozen.double() - delta.double()).abs().max())

    def unmerge(self) -> None:
        """Put the very same frozen weight back."""
        if self.merged:
            self.base.weight = self._aside.pop()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base(x, *args, **kwargs)
        return y if self.merged else y + (self._side(x) * self.scaling).to(y.dtype)

    @property
    def _weight(self) -> nn.Parameter:
        return cast(nn.Parameter, self.base.weight)

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        out_size, *rest = self._weight.shape
        return (rank, *rest), (out_size, rank)

    def _side(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LoraLinear(LoraLayer):
    """nn.Linear: weight [out, in]."""

    def _side(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a), self.lora_b)


class LoraConv1D(LoraLinear):
    """transformers' Conv1D, a linear layer whose weight is [in, out]."""

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        in_size, out_size = self._weight.shape
        return (rank, in_size), (out_size, rank)

    def delta(self) -> Tensor:
        return (self.scaling * (self.lora_b @ self.lora_a)).T.contiguous()


class LoraEmbedding(LoraLayer):
    """nn.Embedding: weight [entries, size]. As in PEFT A [rank, entries] is zero and B [size, rank] random."""

    def __init__(self, base: nn.Module, rank: int, scaling: float, dropout: float) -> None:
        if base.max_norm is not None:
            raise LoraError("an embedding with max_norm rewrites its weight in every forward pass, so it is not frozen")
        super().__init__(base, rank, scaling, dropout)

    def reset(self) -> None:
        nn.init.zeros_(self.lora_a)
        nn.init.normal_(self.lora_b)

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        entries, size = self._weight.shape
        return (rank, entries), (size, rank)

    def delta(self) -> Tensor:
        return (self.scaling * (self.lora_b @ self.lora_a)).T.contiguous()

    def _side(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.lora_a.T) @ self.lora_b.T


class LoraConv(LoraLayer):
    """nn.Conv1d/2d/3d: weight [out, in / groups, kernel…], a matrix with the kernel folded into the input.

    A runs with the base's stride, padding, dilation and padding mode, once in every group; B is a 1 × 1 convolution.
    """

    def _side(self, x: Tensor) -> Tensor:
        base = cast(nn.Conv2d, self.base)
        spread = self.lora_a.repeat(base.groups, *([1] * (self.lora_a.dim() - 1)))
        hidden = base._conv_forward(self.dropout(x.to(self.lora_a.dtype)), cast(Tensor, spread), None)
        pointwise = self.lora_b.view(*self.lora_b.shape, *([1] * (self.lora_a.dim() - 2)))
        convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[self.lora_a.dim()]
        return convolve(hidden, pointwise, groups=base.groups)


def wrapper_for(module: nn.Module) -> type[LoraLayer] | None:
    """The wrapper for a layer, or None for one that cannot carry a side path."""
    if isinstance(module, nn.Linear):
        return LoraLinear
    if isinstance(module, nn.Embedding):
        return LoraEmbedding
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return LoraConv
    # By name, so that transformers need not be imported: its Conv1D is a linear layer, whatever it is called.
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return LoraConv1D
    return None
