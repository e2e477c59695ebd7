"""From the words of a config to the modules of a model: names, globs, "all-linear"."""

from __future__ import annotations

import re
import warnings
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
    bare = _bare_matrices(model) if ALL_LINEAR in config.targets else []
    if bare:
        warnings.warn(
            f"'{ALL_LINEAR}' leaves out what is no layer of its own and stays frozen: {first_few(bare, 8)}",
            stacklevel=3,
        )
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


def _bare_matrices(model: nn.Module) -> list[str]:
    """Parameters that modules multiply with by themselves, as experts and routers do, with * for the layers' numbers.

    It counts if it is called a weight, is an expert's, or holds several matrices; torch's own modules have none.
    """
    found = []
    for owner, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") or wrapper_for(module):
            continue
        for name, parameter in module.named_parameters(owner, recurse=False):
            leaf = name.rpartition(".")[2]
            several = parameter.dim() > 2 and parameter.shape[0] > 1
            single = parameter.dim() == 2 and (leaf == "weight" or "expert" in name)
            if (several or single) and not leaf.endswith("bias"):
                found.append(re.sub(r"(?<=\.)\d+(?=\.)", "*", name))
    return list(dict.fromkeys(found))


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
    if any(fits(name, target) for name, _ in model.named_parameters() if name.rpartition(".")[0] not in names):
        return f"target {target!r} is a bare parameter and no layer: nothing can take its place"
    near = nearest(target, [*ends, *names], most=3) or list(ends)
    held = first_few(near, 8) or "none that could carry a side path"
    return f"target {target!r} matches no layer; this model has {held}"
