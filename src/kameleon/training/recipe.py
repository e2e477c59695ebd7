"""A recipe applied to a base and its rows: derived values, and the projections that get a side path."""

from __future__ import annotations

from dataclasses import replace

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
    """`recipe` with a value for everything that it leaves open, as the run's card has it."""
    return replace(
        recipe,
        learning_rate=recipe.learning_rate or derived_learning_rate(config),
        epochs=schedule.epochs,
        rows_per_step=schedule.rows_per_step,
    )


def target_modules(config: DecoderConfig, recipe: Recipe) -> list[str]:
    """Names of the projections that get a side path, in layer order. Raises SettingError for a name the base lacks."""
    names = module_names(config)
    kinds = list(dict.fromkeys(name.kind for name in names))
    wanted = kinds if recipe.targets == "all-linear" else [t.strip() for t in recipe.targets.split(",")]
    unknown = [t for t in wanted if t not in kinds]
    if unknown:
        raise SettingError(f"unknown target {', '.join(unknown)}; this base has {', '.join(kinds)}, or all-linear")
    if recipe.layers > config.num_layers:
        raise SettingError(f"layers is {recipe.layers}; this base has {config.num_layers}")
    lowest = lowest_layer(config, recipe)
    return [str(name) for name in names if name.kind in wanted and name.layer >= lowest]


def lowest_layer(config: DecoderConfig, recipe: Recipe) -> int:
    """The first layer that is adapted; those below it get no gradient."""
    return config.num_layers - recipe.layers if recipe.layers else 0
