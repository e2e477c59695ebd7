"""A recipe applied to a base and its rows: derived values, and the projections that get a side path."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from kameleon.errors import SettingError
from kameleon.model import DecoderConfig, module_names
from kameleon.settings import Recipe
from kameleon.training.schedule import Schedule


def derived_learning_rate(config: DecoderConfig) -> float:
    """5e-4 · (2000 / hidden_size)^0.78: ten times a usual rate of full fine-tuning, smaller for wider bases.

    The form is the fit of "LoRA Without Regret" (Schulman et al., 2025); it does not depend on the rank.
    """
    return float(f"{5e-4 * (2000 / config.hidden_size) ** 0.78:.2g}")


def settled(recipe: Recipe, config: DecoderConfig, schedule: Schedule) -> Recipe:
    """`recipe` with the learning rate, epochs and rows per step of the run."""
    return replace(
        recipe,
        learning_rate=learning_rate_of(recipe, config),
        epochs=schedule.epochs,
        rows_per_step=schedule.rows_per_step,
    )


def learning_rate_of(recipe: Recipe, config: DecoderConfig) -> float:
    """The highest learning rate of a run: the recipe's, or one that is derived from the base."""
    return derived_learning_rate(config) if recipe.learning_rate is None else recipe.learning_rate


def recorded(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe for cards and checkpoints, where 0 layers means all of them."""
    return {**asdict(recipe), "layers": 0 if recipe.layers is None else recipe.layers}


def target_modules(config: DecoderConfig, recipe: Recipe) -> list[str]:
    """Names of the projections that get a side path, in layer order. Raises SettingError for a name the base lacks."""
    names = module_names(config)
    kinds = list(dict.fromkeys(name.kind for name in names))
    wanted = kinds if recipe.targets == "all-linear" else [t.strip() for t in recipe.targets.split(",")]
    unknown = [t for t in wanted if t not in kinds]
    if unknown:
        raise SettingError(f"unknown target {', '.join(unknown)}; this base has {', '.join(kinds)}, or all-linear")
    if recipe.layers is not None and recipe.layers > config.num_layers:
        raise SettingError(f"layers is {recipe.layers}; this base has {config.num_layers}")
    lowest = lowest_layer(config, recipe)
    return [str(name) for name in names if name.kind in wanted and name.layer >= lowest]


def lowest_layer(config: DecoderConfig, recipe: Recipe) -> int:
    """The first layer that is adapted; those below it get no gradient."""
    return 0 if recipe.layers is None else config.num_layers - recipe.layers
