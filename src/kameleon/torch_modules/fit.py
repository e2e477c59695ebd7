"""Which layers can carry a side path, and why another cannot: a wrapper must compute what its merged weight will."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import UninitializedParameter

from kameleon.torch_modules.layers import LoraConv, LoraConv1D, LoraEmbedding, LoraLayer, LoraLinear

# By name, so that transformers need not be imported: its Conv1D is a linear layer with another name.
_WRAPPERS: dict[str, type[LoraLayer]] = {
    "torch.nn.modules.linear.Linear": LoraLinear,
    "torch.nn.modules.sparse.Embedding": LoraEmbedding,
    "torch.nn.modules.conv.Conv1d": LoraConv,
    "torch.nn.modules.conv.Conv2d": LoraConv,
    "torch.nn.modules.conv.Conv3d": LoraConv,
    "transformers.pytorch_utils.Conv1D": LoraConv1D,
}


def wrapper_for(module: nn.Module) -> type[LoraLayer] | None:
    """The wrapper for this kind of layer, or None for a kind that has none."""
    kind = _kind(module)
    return None if kind is None else _WRAPPERS[_full_name(kind)]


def why_unfit(model: nn.Module, name: str) -> str | None:
    """Why the module of that name cannot carry a side path that would work and merge; None if it can."""
    module = model.get_submodule(name)
    kind, own = _kind(module), type(module).__name__
    if kind is None:
        return f"{name} is {own}; only linear, embedding and convolution layers can carry a side path"
    if in_attention(model, name):
        return (
            f"{name} belongs to nn.MultiheadAttention, which never calls it: name other layers "
            "(LoRA needs an attention whose projections are layers of their own)"
        )
    if isinstance(module.weight, UninitializedParameter):
        return f"{name} is {own} and has no shape yet: run one batch through the model first"
    if getattr(type(module), "forward", None) is not getattr(kind, "forward", None):
        return f"{name} is {own}, which does not compute as {kind.__name__} does: merged, it would answer differently"
    if "weight" not in module._parameters:
        return f"the weight of {name} is computed from others (weight norm, parametrization): remove that first"
    if not module._parameters["weight"].is_floating_point():  # pyright: ignore[reportOptionalMemberAccess]
        return f"the weight of {name} is {module.weight.dtype}: load the model in a float type"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return (
            f"{name} is an embedding with max_norm, which rewrites its weight in every forward pass: it is not frozen"
        )
    return None


def in_attention(model: nn.Module, name: str) -> bool:
    """Whether nn.MultiheadAttention owns it: that one reads the weight itself and never calls the layer."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def _kind(module: nn.Module) -> type | None:
    return next((cls for cls in type(module).__mro__ if _full_name(cls) in _WRAPPERS), None)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"
