"""Side paths folded into their weights, the error that makes, and the exact way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kameleon.errors import LoraError
from kameleon.torch_modules.attach import layers
from kameleon.torch_modules.layers import LoraLayer


@dataclass(frozen=True)
class MergeReport:
    """`rounding_max`: the largest error of any merged number, against W + delta in float64; it comes from the weight's
    type. `output_gap_max`: max |merged output − live output| on the example, None if none was given."""

    modules: int
    rounding_max: float
    output_gap_max: float | None


@torch.no_grad()
def merge(model: nn.Module, example: Callable[[nn.Module], Tensor] | None = None) -> MergeReport:
    """Fold every side path into its weight and measure the error made. Merging twice is merging once.

    `example(model)` computes an output to compare; both times it runs with the model in evaluation mode.
    Raises LoraError, changing nothing, when there is nothing to merge or a merged weight would not be finite.
    """
    found = dict(layers(model))
    if not found:
        raise LoraError("this model has no side paths to merge; attach(model, LoraConfig(...)) puts them on")
    merged = {name: layer.merged_weight() for name, layer in found.items()}
    broken = [name for name, weight in merged.items() if not weight.isfinite().all()]
    if broken:
        raise LoraError(
            f"merged, the weight of {', '.join(broken[:8])} would hold infinite numbers or NaN: its factors "
            "are damaged, or too large for the weight's type"
        )
    unmerge(model)
    with _evaluating(model):
        live = None if example is None else example(model)
        rounding_max = max(_rounding(layer, merged[name]) for name, layer in found.items())
        for name, layer in found.items():
            layer.put_merged(merged[name])
        gap = None if example is None or live is None else float((example(model) - live).abs().max())
    return MergeReport(len(found), rounding_max, gap)


def unmerge(model: nn.Module) -> None:
    """Put every frozen weight back, exact to the bit. Raises LoraError when the model has no side paths."""
    found = list(layers(model))
    if not found:
        raise LoraError("this model has no side paths to unmerge; once detached, a merged model stays merged")
    for _, layer in found:
        layer.unmerge()


def _rounding(layer: LoraLayer, merged: Tensor) -> float:
    exact = layer.base.get_parameter("weight").double() + layer.delta().double()
    return float((merged.double() - exact).abs().max())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
