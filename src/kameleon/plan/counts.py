"""The number of trained parameters and the size of the adapter's file, both exact."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace

from kameleon.model import DecoderConfig, module_shapes
from kameleon.settings import Recipe
from kameleon.training import target_modules

TABLE_RANKS = (4, 8, 16, 32, 64)
TABLE_TARGETS = ("q_proj,v_proj", "q_proj,k_proj,v_proj,o_proj", "all-linear")


def lora_parameters(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Σ rank · (in + out) over matrices of `shapes` (out, in) (Hu et al., 2021, arXiv:2106.09685)."""
    return rank * sum(out_size + in_size for out_size, in_size in shapes)


def trainable_parameters(config: DecoderConfig, recipe: Recipe) -> int:
    """Parameters that a run of this recipe trains. Raises SettingError for a target that the base lacks."""
    shapes, wanted = module_shapes(config), target_modules(config, recipe)
    magnitudes = sum(shapes[module][0] for module in wanted) if recipe.variant == "dora" else 0
    return lora_parameters((shapes[module] for module in wanted), recipe.rank) + magnitudes


def parameter_table(config: DecoderConfig, recipe: Recipe) -> dict[str, dict[int, int]]:
    """Trained parameters by targets and rank, with the layers of the recipe."""
    targets = dict.fromkeys((*TABLE_TARGETS, recipe.targets))
    ranks = sorted({*TABLE_RANKS, recipe.rank})
    return {
        target: {rank: trainable_parameters(config, replace(recipe, targets=target, rank=rank)) for rank in ranks}
        for target in targets
    }


def adapter_bytes(config: DecoderConfig, recipe: Recipe) -> int:
    """Size of `adapter_model.safetensors`: fp32 numbers behind a header of names, padded to eight bytes."""
    shapes, sizes = module_shapes(config), {}
    for module in target_modules(config, recipe):
        out_size, in_size = shapes[module]
        sizes[f"base_model.model.{module}.lora_A.weight"] = [recipe.rank, in_size]
        sizes[f"base_model.model.{module}.lora_B.weight"] = [out_size, recipe.rank]
        if recipe.variant == "dora":
            sizes[f"base_model.model.{module}.lora_magnitude_vector"] = [out_size]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in sorted(sizes.items()):
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    written = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-written // 8) * 8 + at
