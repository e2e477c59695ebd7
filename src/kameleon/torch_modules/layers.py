"""Wrappers that keep a frozen layer inside and add its side path: linear, embedding, convolution.

Merging never writes into a weight: it puts W + delta in the frozen one's place and keeps that one aside, so unmerging
is exact to the bit, and a layer that shares its weight with another never changes the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class LoraLayer(nn.Module):
    """y = base(x) + scaling · B(A(dropout(x))), with the base frozen and one of the factors zero at first.

    `lora_a` [rank, in…] and `lora_b` [out, rank] are fp32 or the base's type, whichever is wider; y has the base's
    type. What else is asked of it (bias, in_features, stride…) the base answers.
    """

    def __init__(self, base: nn.Module, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout)
        dtype = torch.promote_types(self._base_weight.dtype, torch.float32)
        a_shape, b_shape = self._shapes(rank)
        self.lora_a = nn.Parameter(torch.zeros(a_shape, dtype=dtype, device=self._base_weight.device))
        self.lora_b = nn.Parameter(torch.zeros(b_shape, dtype=dtype, device=self._base_weight.device))
        self._aside: list[nn.Parameter] = []  # the frozen weight, while merged; in a list, so that it is no parameter
        self.reset()
        self.train(base.training)

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

    @property
    def weight(self) -> Tensor:
        """W + delta, with gradients to A and B: for models that read a layer's weight instead of calling the layer."""
        return self._base_weight if self.merged else self.merged_weight()

    def delta(self) -> Tensor:
        """What the side path adds to the weight: the weight's shape, the factors' type."""
        return (self.scaling * (self.lora_b @ self.lora_a.flatten(1))).view(self._base_weight.shape)

    def merged_weight(self) -> Tensor:
        """W + delta, added in the factors' type and rounded once to the weight's."""
        delta, frozen = self.delta(), self.set_aside
        frozen = self._base_weight if frozen is None else frozen
        return (frozen.to(delta.dtype) + delta).to(frozen.dtype)

    def put_merged(self, weight: Tensor) -> None:
        """Let `weight` stand in the frozen one's place, which is kept aside."""
        assert not self.merged, "a merged layer is unmerged before it is merged again"
        self._aside = [self._base_weight]
        self.base.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def unmerge(self) -> None:
        """Put the very same frozen weight back; a layer that is not merged stays as it is."""
        if self.merged:
            self.base.weight = self._aside.pop()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base(x, *args, **kwargs)
        return y if self.merged else y + (self._side(x) * self.scaling).to(y.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scaling={self.scaling:g}, merged={self.merged}"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Only a base that is there can answer; while a copy is being built there is none yet.
            if "base" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.base, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LoraLayer:  # noqa: FBT001, FBT002 (torch's own)
        super()._apply(fn, recurse)
        for frozen in self._aside:  # moved and converted with the rest, and still the one its twin holds
            frozen.data = fn(frozen.data)
        return self

    @property
    def _base_weight(self) -> nn.Parameter:
        return cast(nn.Parameter, self.base.weight)

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        out_size, *rest = self._base_weight.shape
        return (rank, *rest), (out_size, rank)

    def _side(self, x: Tensor) -> Tensor:
        """B(A(dropout(x))) in the factors' type."""
        raise NotImplementedError


class LoraLinear(LoraLayer):
    """nn.Linear: weight [out, in], A [rank, in], B [out, rank]."""

    def _side(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a), self.lora_b)


class LoraConv1D(LoraLinear):
    """transformers' Conv1D, a linear layer whose weight is [in, out]: A [rank, in], B [out, rank]."""

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        in_size, out_size = self._base_weight.shape
        return (rank, in_size), (out_size, rank)

    def delta(self) -> Tensor:
        return (self.scaling * (self.lora_b @ self.lora_a)).T.contiguous()


class LoraEmbedding(LoraLayer):
    """nn.Embedding: weight [entries, size]. As in PEFT A [rank, entries] is zero and B [size, rank] normal at first,
    and there is no dropout: an entry is looked up, not multiplied."""

    def reset(self) -> None:
        """A zero, B normal."""
        nn.init.zeros_(self.lora_a)
        nn.init.normal_(self.lora_b)

    def _shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        entries, size = self._base_weight.shape
        return (rank, entries), (size, rank)

    def delta(self) -> Tensor:
        return (self.scaling * (self.lora_b @ self.lora_a)).T.contiguous()

    def _side(self, x: Tensor) -> Tensor:
        # The padding entry gets no gradient, as in the base, so its side path stays zero.
        padding_idx = cast(nn.Embedding, self.base).padding_idx
        return functional.embedding(x, self.lora_a.T, padding_idx) @ self.lora_b.T


class LoraConv(LoraLayer):
    """nn.Conv1d/2d/3d: weight [out, in / groups, kernel…], a matrix with the kernel folded into the input.

    A [rank, in / groups, kernel…] runs with the base's stride, padding, dilation and padding mode, once in every group;
    B [out, rank] is a 1 × 1 convolution. (PEFT runs a grouped convolution's A over all groups at once, and a dilated or
    oddly padded one's without either: changes that the weight cannot hold. Elsewhere the two are the same.)
    """

    def _side(self, x: Tensor) -> Tensor:
        base = cast(nn.Conv2d, self.base)
        spread = self.lora_a.repeat(base.groups, *([1] * (self.lora_a.dim() - 1)))  # [groups · rank, in / groups, …]
        hidden = base._conv_forward(self.dropout(x.to(self.lora_a.dtype)), spread, None)
        pointwise = self.lora_b.view(*self.lora_b.shape, *([1] * (self.lora_a.dim() - 2)))  # [out, rank, 1…]
        convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[self.lora_a.dim()]
        return convolve(hidden, pointwise, groups=base.groups)
