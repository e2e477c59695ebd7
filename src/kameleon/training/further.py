"""Going on from an existing adapter: its version, and the fields of the recipe that it fixes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kameleon.adapters import Adapter, Shelf
from kameleon.adapters.formats import read_adapter
from kameleon.errors import AdapterError, AdapterFileError, AdapterMismatchError, SettingError
from kameleon.home import runs_dir
from kameleon.model import DecoderConfig, module_names
from kameleon.settings import Recipe
from kameleon.training.checkpoint import require_no_checkpoint, saved_identity
from kameleon.weights import ModuleName

FIXED = ("rank", "variant", "alpha", "targets", "layers")
"""Fields of a recipe that an existing adapter fixes."""


def find_parent(name: str, shelf: Shelf, *, run: str, resume: bool = False) -> Adapter:
    """The adapter of the shelf from which the run `run` goes on; for a resumed run, the version that it began with.

    Raises AdapterNotFoundError, AdapterFileError.
    """
    current = shelf.load(name)
    began = saved_identity(runs_dir() / run).get("from") if resume else None
    if not began or current.fingerprint in began:
        return current
    for entry in shelf.history(name):
        with suppress(AdapterFileError):  # a broken version is not the one
            if (version := read_adapter(entry.path, name=name)).fingerprint in began:
                return version
    return current


def require_free(name: str, shelf: Shelf, parent: Adapter | None) -> None:
    """Raise SettingError for a name that is taken, unless it gets a new version that goes on from the last, and
    TrainingError for an unfinished run of that name."""
    require_no_checkpoint(runs_dir() / name)
    if parent is None or parent.name != name:
        shelf.require_free(name)


def recipe_from(
    parent: Adapter, config: DecoderConfig, recipe: Recipe, *, given: Collection[str] | None = None
) -> Recipe:
    """`recipe` with rank, alpha, targets, layers and variant of the adapter that a run goes on from.

    Where its modules differ, rank and alpha are those of a module with the highest rank. `given` names the fields that
    a person set; None takes those that differ from their defaults. Raises SettingError for a given value that
    contradicts the adapter, AdapterError for one with parts that are not trained, AdapterMismatchError for one of a
    base with other projections.
    """
    names, places = module_names(config), [ModuleName.parse(name) for name in parent.modules]
    if strange := [place for place in places if place not in names]:
        raise AdapterMismatchError(f"adapter {parent.name!r} does not fit: this base has no projection {strange[0]}")
    others = [part for part in parent.variants if not part.startswith("DoRA")]
    if others or not parent.modules:
        raise AdapterError(
            f"adapter {parent.name!r} has {', '.join(others) or 'no module'}; only A, B and DoRA's magnitudes are "
            "trained: merge it into a full model, and train a new adapter on that"
        )
    largest = max(parent.modules.values(), key=lambda factors: factors.rank)
    kinds = list(dict.fromkeys(name.kind for name in names))
    held = [kind for kind in kinds if kind in {place.kind for place in places}]
    lowest = min(place.layer for place in places)
    values = (
        largest.rank,
        "dora" if parent.variants else "lora",
        largest.alpha,
        "all-linear" if held == kinds else ",".join(held),
        config.num_layers - lowest if lowest else None,
    )
    fixed: dict[str, Any] = dict(zip(FIXED, values, strict=True))
    told = vars(recipe) | {"targets": _in_order(recipe.targets, kinds)}
    if given is None:
        given = [name for name in FIXED if getattr(recipe, name) != getattr(Recipe(), name)]
    wrong = [name for name, value in fixed.items() if name in given and told[name] not in (value, None)]
    if wrong:
        differing = ", ".join(f"{name} {_word(fixed[name])}, not {told[name]}" for name in wrong)
        raise SettingError(
            f"adapter {parent.name!r}, which the run goes on from, has {differing}: leave that out, or train a new "
            "adapter"
        )
    return replace(recipe, **fixed)


def _word(value: object) -> object:
    return "all" if value is None else value


def _in_order(targets: str, kinds: list[str]) -> str:
    """Targets as `recipe_from` writes them, so that the same ones are equal."""
    wanted = [target.strip() for target in targets.split(",")]
    if set(wanted) == set(kinds):
        return "all-linear"
    return ",".join(sorted(wanted, key=lambda kind: kinds.index(kind) if kind in kinds else len(kinds)))
