"""Several adapters of one base made into one, with the names, weights and signs of PEFT's `add_weighted_adapter`."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.arithmetic.spectrum import spectrum, spectrum_of
from kameleon.errors import AdapterMismatchError, SettingError, WrongBaseError
from kameleon.settings import MOST_RANK
from kameleon.words import first_few

_PRUNED = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
METHODS = ("linear", "cat", "svd", *_PRUNED, *(f"{method}_svd" for method in _PRUNED))
"""How adapters can be combined; see `combine`."""

_Mix = Callable[[list[Tensor], Tensor], Tensor]


def combine(
    adapters: Sequence[Adapter],
    name: str,
    *,
    weights: Sequence[float] | None = None,
    method: str = "cat",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
    any_base: bool = False,
) -> Adapter:
    """Σ wᵢ Δᵢ, or one of its approximations, as a new adapter with scaling 1 and its parents in the card.

    * `cat`: the exact sum, its rank the sum of the ranks.
    * `svd`: the nearest matrix of `rank` (by default the largest rank of any module) to the exact sum.
    * `linear`: sums A and B apart, √|wᵢ sᵢ| in each and the sign in A. Ranks stay, but (ΣA)(ΣB) holds products of one
      adapter's B with another's A: an approximation that is good only for adapters that are nearly alike.
    * `ties` (arXiv:2306.01708): of each number's trimmed contributions the mean of those with the majority's sign.
    * `dare_linear`, `dare_ties` (arXiv:2311.03099): drops numbers at random, with `seed`, and divides by `density`.
    * `magnitude_prune`: keeps the largest.

    The last four keep the share `density` of each tensor, and work on A and B apart as `linear` does; with `_svd`
    behind the name, on the deltas, whose result is then truncated to `rank`. One adapter alone is multiplied by its
    weight, in every method, as in PEFT; a warning says so. `weights` are 1 where not given and may be negative.
    A module that only some adapters have is made of those. The system prompt is kept if all have the same;
    otherwise the result has none, and a warning says so.

    Raises SettingError for settings that do not go together, WrongBaseError for adapters of different bases unless
    `any_base`, AdapterMismatchError for shapes or ranks that do not go together.
    """
    weights = [1.0] * len(adapters) if weights is None else [float(w) for w in weights]
    _check(adapters, weights, method, rank, density)
    if not any_base and len({a.card.base_fingerprint for a in adapters}) > 1:
        bases = ", ".join(f"{a.name}: {a.card.base_id or 'unknown'}" for a in adapters)
        raise WrongBaseError(f"these adapters belong to different bases ({bases}); allow it by name: `any_base=True`")
    for adapter in adapters:
        adapter.require_plain("combining")
    if len(adapters) == 1 and method != "linear":
        method, density = _alone(adapters[0], method, rank), None
    names = list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
    present = {m: [(a.modules[m], w) for a, w in zip(adapters, weights, strict=True) if m in a.modules] for m in names}
    _check_shapes(present, one_rank=method in ("linear", *_PRUNED))
    svd_rank = rank or max(f.rank for parts in present.values() for f, _ in parts)

    def made(module: str) -> LoraFactors:
        parts = present[module]
        if method == "cat":
            return _concatenated(parts)
        if method == "svd":
            return spectrum(_concatenated(parts)).truncated(svd_rank)
        mix = _mix(method.removesuffix("_svd"), density or 1.0, _generator(seed, module))
        if method.endswith("_svd"):
            delta = mix([f.delta() for f, _ in parts], torch.tensor([w for _, w in parts]))
            return spectrum_of(delta).truncated(svd_rank)
        return _mixed_apart(parts, mix)

    recipe = {"method": method, "rank": rank, "density": density, "seed": seed if "dare" in method else None}
    parents = tuple(a.as_parent(w, f"combine {method}") for a, w in zip(adapters, weights, strict=True))
    settings = {k: v for k, v in recipe.items() if v is not None}
    card = adapters[0].card.derived(parents, settings, _shared_system_prompt(adapters, name))
    modules = {module: made(module) for module in names}
    if not all(torch.isfinite(t).all() for f in modules.values() for t in f.tensors):
        raise SettingError(f"the weights are {weights}; the sum's numbers would be infinite")
    return Adapter(name, modules, card)


def _check(
    adapters: Sequence[Adapter], weights: Sequence[float], method: str, rank: int | None, density: float | None
) -> None:
    if not adapters or len(adapters) != len(weights):
        raise SettingError(f"{len(adapters)} adapters and {len(weights)} weights: one weight for each of at least one")
    if not all(map(math.isfinite, weights)):
        raise SettingError(f"the weights are {weights}; they must be finite")
    if method not in METHODS:
        raise SettingError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    if rank is not None and (not method.endswith("svd") or not 1 <= rank <= MOST_RANK):
        raise SettingError(f"rank is {rank} with {method}; only svd methods take one, from 1 to {MOST_RANK}")
    pruned = method.removesuffix("_svd") in _PRUNED
    if pruned != (density is not None) or (density is not None and not 0 < density <= 1):
        wanted = "above 0 and at most 1" if pruned else "left out"
        raise SettingError(f"density is {density} with {method}; it must be {wanted}")


def _alone(adapter: Adapter, method: str, rank: int | None) -> str:
    """The method for an adapter with none beside it. Warns where the given one would have changed its numbers."""
    if rank is not None:
        raise SettingError(
            f"there is nothing to combine {adapter.name!r} with; for another rank: `resize(adapter, rank)`"
        )
    if method not in ("cat", "svd"):
        warnings.warn(
            f"{adapter.name!r} is the only adapter, so nothing is dropped: it is multiplied by its weight (linear), as "
            f"in PEFT, and {method} and density have no effect",
            stacklevel=3,
        )
    return "linear"


def _shared_system_prompt(adapters: Sequence[Adapter], name: str) -> str | None:
    """What all were trained with. Warns where they differ: the result then has none."""
    prompts = {adapter.card.system_prompt for adapter in adapters}
    if len(prompts) == 1:
        return prompts.pop()
    told = ", ".join(f"{a.name}: {'none' if a.card.system_prompt is None else 'its own'}" for a in adapters)
    warnings.warn(
        f"these adapters were trained with different system prompts ({told}), so {name!r} has none: give it one when "
        "you use it",
        stacklevel=3,
    )
    return None


def _check_shapes(present: dict[str, list[tuple[LoraFactors, float]]], *, one_rank: bool) -> None:
    faults = []
    for module, parts in present.items():
        shapes = {(f.b.shape[0], f.a.shape[1]) for f, _ in parts}
        ranks = {f.rank for f, _ in parts}
        if len(shapes) > 1:
            faults.append(f"{module} is {' and '.join(f'{o} × {i}' for o, i in sorted(shapes))}")
        elif one_rank and len(ranks) > 1:
            faults.append(f"{module} has ranks {', '.join(map(str, sorted(ranks)))}, and this method needs one")
    if faults:
        shown = first_few(faults, 5, separator="; ")
        raise AdapterMismatchError(f"these adapters do not go together: {shown} (cat and svd take any ranks)")


def _concatenated(parts: Sequence[tuple[LoraFactors, float]]) -> LoraFactors:
    """[B₁ B₂ …] [w₁ s₁ A₁; w₂ s₂ A₂; …]: the exact sum."""
    a = torch.cat([w * f.scaling * f.a for f, w in parts])
    return LoraFactors(a, torch.cat([f.b for f, _ in parts], 1), float(len(a)))


def _mixed_apart(parts: Sequence[tuple[LoraFactors, float]], mix: _Mix) -> LoraFactors:
    scaled = torch.tensor([w * f.scaling for f, w in parts])
    a = mix([f.a for f, _ in parts], scaled.abs().sqrt() * scaled.sign())
    b = mix([f.b for f, _ in parts], scaled.abs().sqrt())
    return LoraFactors(a, b, float(len(a)))


def _generator(seed: int, module: str) -> torch.Generator:
    """A stream for each module, so that no module's numbers depend on which others there are."""
    digest = hashlib.sha256(f"{seed} {module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _mix(method: str, density: float, generator: torch.Generator) -> _Mix:
    """The function of [tensors of one shape], weights [n] that `method` is."""

    def largest(tensor: Tensor) -> Tensor:
        kept = torch.zeros(tensor.numel())
        kept[tensor.abs().flatten().topk(int(density * tensor.numel())).indices] = 1
        return tensor * kept.view_as(tensor)

    def at_random(tensor: Tensor) -> Tensor:
        return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=generator) / density

    def mix(tensors: list[Tensor], weights: Tensor) -> Tensor:
        if density < 1 and method != "linear":
            tensors = [(at_random if "dare" in method else largest)(tensor) for tensor in tensors]
        stacked = torch.stack(tensors)
        weighted = stacked * weights.view(-1, *[1] * tensors[0].dim())
        if "ties" not in method:
            return weighted.sum(0)
        # As in PEFT, the majority is found before weighting, zero counts as positive, and only equal signs are taken.
        majority = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
        agrees = (stacked.sign() == majority).to(stacked.dtype)
        return (weighted * agrees).sum(0) / agrees.sum(0).clamp_min(1)

    return mix
