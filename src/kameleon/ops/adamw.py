"""AdamW on one flat vector, the gradient's norm and clipping included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


@dataclass
class AdamW:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) for a flat fp32 vector, moved in place.

    `mean` and `square` are the running averages of the gradient and of its square; `steps` counts the updates made.
    """

    parameters: Tensor
    mean: Tensor
    square: Tensor
    weight_decay: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, parameters: Tensor, weight_decay: float) -> AdamW:
        """An optimiser at step 0 for a flat fp32 vector."""
        return cls(parameters, torch.zeros_like(parameters), torch.zeros_like(parameters), weight_decay)

    def update(self, gradient: Tensor, *, divisor: float, clip_norm: float, learning_rate: float) -> float:
        """Divide `gradient` by `divisor`, shorten it to `clip_norm` if it is longer, step. Returns its norm before
        clipping; if that is not finite, nothing has moved.
        """
        step = self.steps + 1
        run = _native_update if native.can_run(self.parameters, gradient) else _reference_update
        norm = run(self, gradient, divisor, clip_norm, learning_rate, step)
        if math.isfinite(norm):
            self.steps = step
        return norm


def _native_update(
    adamw: AdamW, gradient: Tensor, divisor: float, clip_norm: float, learning_rate: float, step: int
) -> float:
    state = (adamw.parameters, gradient, adamw.mean, adamw.square, adamw.parameters.numel())
    settings = (divisor, clip_norm, learning_rate, _BETA1, _BETA2, _EPS, adamw.weight_decay, step)
    return native.call("adamw", *state, *settings)


def _reference_update(
    adamw: AdamW, gradient: Tensor, divisor: float, clip_norm: float, learning_rate: float, step: int
) -> float:
    norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) / divisor
    if not math.isfinite(norm):
        return norm
    scaled = gradient * (min(1.0, clip_norm / norm if norm else 1.0) / divisor)
    adamw.mean.lerp_(scaled, 1 - _BETA1)
    adamw.square.mul_(_BETA2).addcmul_(scaled, scaled, value=1 - _BETA2)
    spread = (adamw.square / (1 - _BETA2**step)).sqrt_().add_(_EPS)
    adamw.parameters.mul_(1 - learning_rate * adamw.weight_decay)
    adamw.parameters.addcdiv_(adamw.mean, spread, value=-learning_rate / (1 - _BETA1**step))
    return norm
