"""From the words of a config to the modules of a model: names, globs, "all-linear"."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from kameleon.errors import LoraError
from kameleon.torch_modules.config import ALL_LINEAR, LoraConfig
from kameleon.torch_modules.fit import in_attention, why_unfit, wrapper_for
from kameleon.torch_modules.layers import LoraConv1D, LoraLinear
from kameleon.words import first_few, nearest


def find_targets(model: nn.Module, config: LoraConfig) -> list[str]:
    """The names of all modules that `config.targets` speaks of.

    Raises LoraError, with every fault at once, for a target or pattern that matches nothing and for a matched module
    that cannot carry a side path.
    """
    if wrapper_for(model):
        raise LoraError(f"the model is itself a {type(model).__name__}: nothing can take its place; put it in "
                        "nn.Sequential(model) and attach to that")  # fmt: skip
    matched = {target: _matches(model, target) for target in config.targets}
    names = list(dict.fromkeys(name for found in matched.values() for name in found))
    faults = [_no_match(model, target) for target, found in matched.items() if not found]
    faults += [fault for name in names if (fault := why_unfit(model, name))]
    for setting in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, setting):
            if not any(fits(name, pattern) for name in names):
                faults.append(f"{setting} {pattern!r} matches none of the targets; they are {first_few(names, 8)}")
    if faults:
        raise LoraError(first_few(faults, 8, separator="; "))
    return names


def fits(name: str, pattern: str) -> bool:
    """A glob fits the whole dotted name; a plain word fits the name or the end of it, at a dot."""
    if _is_glob(pattern):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _matches(model: nn.Module, target: str) -> list[str]:
    named = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if target == ALL_LINEAR:
        head = _output_head(model)
        linear = [n for n, m in named.items() if wrapper_for(m) in (LoraLinear, LoraConv1D) and m is not head]
        return [name for name in linear if not in_attention(model, name)]
    # A glob may sweep over containers and activations; a name must be of a layer that can carry a side path.
    return [n for n, m in named.items() if fits(n, target) and (wrapper_for(m) or not _is_glob(target))]


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _output_head(model: nn.Module) -> nn.Module | None:
    """What a transformers model calls its output embeddings; others have no head that could be told apart."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return head if isinstance(head, nn.Module) else None


def _no_match(model: nn.Module, target: str) -> str:
    names = [name for name, module in model.named_modules() if wrapper_for(module)]
    ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
    near = nearest(target, [*ends, *names], most=3) or list(ends)
    held = first_few(near, 8) or "none that could carry a side path"
    return f"target {target!r} matches no layer; this model has {held}"
