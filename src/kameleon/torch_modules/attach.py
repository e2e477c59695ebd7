"""Side paths onto a whole model and off again, and the arithmetic of how much is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from kameleon.errors import LoraError
from kameleon.torch_modules.config import LoraConfig
from kameleon.torch_modules.fit import wrapper_for
from kameleon.torch_modules.frozen_norms import hold_statistics, release_statistics
from kameleon.torch_modules.layers import LoraLayer
from kameleon.torch_modules.targets import find_targets, fits


def attach(model: nn.Module, config: LoraConfig) -> nn.Module:
    """Freeze `model` and give every target a fresh side path, in place; it adds nothing to the output.

    The output is the same to the bit where torch computes frozen weights as others. It chooses some kernels by whether
    weights get gradients (nn.TransformerEncoder; a product with a bare weight, as in Mamba): there the last bits can
    change, as they do by `model.requires_grad_(False)` alone.
    Normalisation layers that gather statistics while training are held still too: they normalise with what they have.
    A module that stands in two places gets one side path, in both; a weight that two layers share stays shared, and
    only the targeted layer's output changes.

    Raises LoraError, leaving the model as it was, when a target matches nothing or what it matches cannot carry a side
    path, or when side paths are attached already.
    """
    _require_plain(model)
    return put_on(model, {name: _settings(name, config) for name in find_targets(model, config)})


def put_on(model: nn.Module, wanted: Mapping[str, tuple[int, float, float]]) -> nn.Module:
    """`attach` to the layers of these names, each with its rank, scaling and dropout. All must be fit for it."""
    _require_plain(model)
    wrapped: dict[nn.Module, nn.Module] = {}
    for name, settings in wanted.items():
        module = model.get_submodule(name)
        if module not in wrapped:
            wrapper = wrapper_for(module)
            assert wrapper is not None, f"{name} cannot carry a side path"
            wrapped[module] = wrapper(module, *settings)
    model.requires_grad_(requires_grad=False)
    hold_statistics(model)
    _swap(model, wrapped)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take every side path off, in place. Merged layers stay merged (a plain model with the change inside); parameters
    stay frozen.

    Raises LoraError when there is none, and for a merged weight that another layer shared: saved as tied, the file
    would hold only one of the two.
    """
    found = dict(layers(model))
    if not found:
        raise LoraError("this model has no side paths to take off; attach(model, LoraConfig(...)) puts them on")
    for name, layer in found.items():
        twin = _twin(model, name, layer)
        if twin:
            raise LoraError(
                f"{name} shared its weight with {twin}, and merged they differ: unmerge before you detach, or untie "
                "the two before you attach (transformers: tie_word_embeddings=False)"
            )
    release_statistics(model)
    _swap(model, {layer: layer.base for layer in found.values()})
    return model


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """(name, layer) of every side path in the model, in order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


@dataclass(frozen=True)
class Count:
    """Numbers that are trained and that are frozen; `share` is trained / all."""

    trainable: int
    frozen: int

    @property
    def share(self) -> float:
        """Trainable numbers as a share of all."""
        return self.trainable / max(1, self.trainable + self.frozen)


def count(model: nn.Module) -> Count:
    """Each parameter counts once, however many layers share it."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Count(trainable, sum(p.numel() for p in parameters) - trainable)


def _require_plain(model: nn.Module) -> None:
    if next(layers(model), None) is not None:
        raise LoraError("this model has side paths already: detach(model) first, or name all targets in one config")


def _settings(name: str, config: LoraConfig) -> tuple[int, float, float]:
    rank = next((r for pattern, r in config.rank_pattern.items() if fits(name, pattern)), config.rank)
    alpha = next((a for pattern, a in config.alpha_pattern.items() if fits(name, pattern)), config.alpha)
    return rank, config.scaling(rank, alpha), config.dropout


def _twin(model: nn.Module, name: str, layer: LoraLayer) -> str | None:
    """The name of another place that holds, or has set aside, the weight which a merged layer had."""
    if layer.set_aside is None:
        return None
    plain = (n for n, parameter in model.named_parameters(remove_duplicate=False) if parameter is layer.set_aside)
    merged = (n for n, other in layers(model) if n != name and other.set_aside is layer.set_aside)
    return next((n for found in (plain, merged) for n in found), None)


def _swap(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put each module's replacement everywhere that it stands, under every name."""
    for parent in list(model.modules()):
        if isinstance(parent, LoraLayer):
            continue
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
