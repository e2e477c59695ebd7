"""Side paths onto a whole model and off again, by name; and the arithmetic of how much is trained."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from kameleon.errors import LoraError
from kameleon.lora.config import LoraConfig
from kameleon.lora.layers import LoraConv1D, LoraLayer, LoraLinear, wrapper_for

_ALL_LINEAR = "all-linear"


def attach(model: nn.Module, config: LoraConfig) -> nn.Module:
    """Freeze `model` and give every target a fresh side path, in place; the output is the same to the bit.

    Raises LoraError, leaving the model as it was, when a target matches nothing or what it matches cannot carry a side
    path, or when side paths are attached already.
    """
    if next(layers(model), None) is not None:
        raise LoraError("this model has side paths already; detach them first")
    chosen = {target: _matches(model, target) for target in config.targets}
    faults = [_no_match(model, target) for target, names in chosen.items() if not names]
    names = list(dict.fromkeys(name for matched in chosen.values() for name in matched))
    faults += [fault for name in names if (fault := _unfit(model, name))]
    for pattern in config.rank_pattern:
        if not any(_fits(name, pattern) for name in names):
            faults.append(f"rank_pattern {pattern!r} matches none of the targets")
    if faults:
        raise LoraError("; ".join(faults))
    wrapped: dict[nn.Module, LoraLayer] = {}
    for name in names:
        module = model.get_submodule(name)
        rank = next((r for pattern, r in config.rank_pattern.items() if _fits(name, pattern)), config.rank)
        wrapper = wrapper_for(module)
        assert wrapper is not None
        if module not in wrapped:
            wrapped[module] = wrapper(module, rank, config.scaling(rank), config.dropout).train(module.training)
    model.requires_grad_(False)
    _swap(model, wrapped)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take every side path off, in place. Merged layers stay merged (a plain model with the change inside).

    Raises LoraError for a merged weight that another layer shares: saved as tied, the file would hold only one of them.
    """
    found = dict(layers(model))
    for name, layer in found.items():
        twin = _twin(model, layer)
        if twin:
            raise LoraError(
                f"{name} shared its weight with {twin}, and only {name} holds the merged change: unmerge before you "
                "detach, or untie the two (transformers: tie_word_embeddings=False) and merge then"
            )
    _swap(model, {layer: layer.base for layer in found.values()})
    return model


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """(name, layer) of every side path in the model, in order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


@dataclass(frozen=True)
class MergeReport:
    """`rounding_max`: the largest error of a merged weight, from its type's precision. `output_gap_max`: how far the
    model's output moved on the example, if one was given; the change itself should move nothing."""

    modules: int
    rounding_max: float
    output_gap_max: float | None


@torch.no_grad()
def merge(model: nn.Module, example: Callable[[nn.Module], Tensor] | None = None) -> MergeReport:
    """Fold every side path into its weight and measure the error made. Merging twice is merging once.

    `example(model)` computes an output to compare before and after, with the model in evaluation mode.
    Raises LoraError when there is nothing to merge.
    """
    found = [layer for _, layer in layers(model)]
    if not found:
        raise LoraError("this model has no side paths to merge")
    before = None if example is None else example(model)
    rounding = max(layer.merge() for layer in found)
    gap = None if example is None or before is None else float((example(model) - before).abs().max())
    return MergeReport(len(found), rounding, gap)


def unmerge(model: nn.Module) -> None:
    """Put every frozen weight back, exact to the bit."""
    for _, layer in layers(model):
        layer.unmerge()


@dataclass(frozen=True)
class Count:
    """Numbers that are trained and that are frozen; `share` is trained / all."""

    trainable: int
    frozen: int

    @property
    def share(self) -> float:
        return self.trainable / max(1, self.trainable + self.frozen)


def count(model: nn.Module) -> Count:
    """Each parameter counts once, however many layers share it."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Count(trainable, sum(p.numel() for p in parameters) - trainable)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The side paths' numbers only: `NAME.lora_a`, `NAME.lora_b`."""
    return {f"{n}.{p}": getattr(layer, p).detach().clone() for n, layer in layers(model) for p in ("lora_a", "lora_b")}


@torch.no_grad()
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy numbers into the side paths. Raises LoraError, changing nothing, unless every key and shape matches."""
    own = {f"{n}.{p}": getattr(layer, p) for n, layer in layers(model) for p in ("lora_a", "lora_b")}
    faults = [f"{key} is missing" for key in own.keys() - state.keys()]
    faults += [f"{key} has no place in this model" for key in state.keys() - own.keys()]
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            faults.append(f"{key} is {list(state[key].shape)}, the model's is {list(own[key].shape)}")
    if any(layer.merged for _, layer in layers(model)):
        faults.append("the side paths are merged; unmerge first")
    if faults:
        raise LoraError("; ".join(sorted(faults)[:8]))
    for key, parameter in own.items():
        parameter.copy_(state[key])


def _fits(name: str, pattern: str) -> bool:
    if any(c in pattern for c in "*?["):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _matches(model: nn.Module, target: str) -> list[str]:
    named = dict(model.named_modules(remove_duplicate=False))
    if target != _ALL_LINEAR:
        # A glob may sweep over containers and activations; a name must be of a layer that can carry a side path.
        swept = any(c in target for c in "*?[")
        return [n for n, m in named.items() if n and _fits(n, target) and (wrapper_for(m) or not swept)]
    head = _output_head(model)
    linear = (LoraLinear, LoraConv1D)
    return [
        n for n, m in named.items() if n and wrapper_for(m) in linear and m is not head and not _in_attention(model, n)
    ]


def _output_head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return head if isinstance(head, nn.Module) else None


def _in_attention(model: nn.Module, name: str) -> bool:
    """Whether nn.MultiheadAttention owns it: that one reads the weight itself and never calls the layer."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def _unfit(model: nn.Module, name: str) -> str | None:
    module = model.get_submodule(name)
    if wrapper_for(module) is None:
        return f"{name} is {type(module).__name__}; only linear, embedding and convolution layers can carry a side path"
    if _in_attention(model, name):
        return f"{name} belongs to nn.MultiheadAttention, which bypasses it: a side path there would never be used"
    return None


def _no_match(model: nn.Module, target: str) -> str:
    ends = {name.rpartition(".")[2] for name, module in model.named_modules() if wrapper_for(module)}
    near = difflib.get_close_matches(target, ends, 3) or sorted(ends)[:8]
    return f"target {target!r} matches no module; this model has {', '.join(near) or 'no layer that could be adapted'}"


def _twin(model: nn.Module, layer: LoraLayer) -> str | None:
    """The name of another place that still holds the weight which a merged layer had."""
    named = model.named_parameters(remove_duplicate=False)
    return next((name for name, parameter in named if parameter is layer.set_aside), None)


def _swap(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put each module's replacement everywhere that it stands, under every name."""
    for parent in list(model.modules()):
        if isinstance(parent, LoraLayer):
            continue
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
