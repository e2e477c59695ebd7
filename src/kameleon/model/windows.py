"""Attention windows of the layers, as the keys of a config.json describe them."""

from __future__ import annotations

from kameleon.errors import UnsupportedArchitectureError
from kameleon.weights import Metadata

Windows = tuple[int | None, ...]
"""Per layer: how many tokens each token sees; None is all."""


def window_size(values: Metadata) -> int | None:
    """`sliding_window`, which a family's defaults fill in; null stands for no window."""
    return None if values.get("sliding_window") is None else values.size("sliding_window")


def by_layer_types(values: Metadata, *, window: int, layers: int) -> Windows:
    """`layer_types` names the kind of each layer. Raises UnsupportedArchitectureError for another kind of attention."""
    kinds = values.row("layer_types", str, layers)
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedArchitectureError(f"layer_types with {', '.join(sorted(unknown))} is not supported")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def all_but_each(nth: int, *, window: int, layers: int) -> Windows:
    """Every `nth` layer sees all, the others `window` tokens."""
    return tuple(window if layer % nth else None for layer in range(1, layers + 1))
