"""The trained numbers alone, out of a model and into another: every key must find its place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kameleon.errors import LoraError
from kameleon.torch_modules.attach import layers
from kameleon.words import first_few

_FACTORS = ("lora_a", "lora_b")


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies of `NAME.lora_a` and `NAME.lora_b`, and `NAME.scaling` (float64), without which they mean nothing.

    Raises LoraError when the model has no side paths.
    """
    state = {key: tensor.detach().clone() for key, tensor in _factors(model).items()}
    return {**state, **_scalings(model)}


@torch.no_grad()
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy numbers into the side paths.

    Raises LoraError, changing nothing, unless every key, shape and scaling matches and the side paths are live.
    """
    own, scalings = _factors(model), _scalings(model)
    known = own.keys() | scalings.keys()
    faults = [f"{key} is missing" for key in known - state.keys()]
    faults += [f"{key} has no place in this model" for key in state.keys() - known]
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            faults.append(f"{key} is {list(state[key].shape)}, the model's is {list(own[key].shape)}")
    for key in scalings.keys() & state.keys():
        if state[key].numel() != 1 or float(state[key]) != float(scalings[key]):
            faults.append(
                f"{key} is {state[key].tolist()}, the model's is {float(scalings[key])}: attach with its alpha"
            )
    if any(layer.merged for _, layer in layers(model)):
        faults.append("the side paths are merged: unmerge first")
    if faults:
        raise LoraError(first_few(sorted(faults), 8, separator="; "))
    for key, parameter in own.items():
        parameter.copy_(state[key])


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    found = {f"{name}.{factor}": getattr(layer, factor) for name, layer in layers(model) for factor in _FACTORS}
    if not found:
        raise LoraError("this model has no side paths; attach(model, LoraConfig(...)) puts them on")
    return found


def _scalings(model: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.scaling": torch.tensor(layer.scaling, dtype=torch.float64) for name, layer in layers(model)}
