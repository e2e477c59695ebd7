"""What an adapter changes, and where: norms and ranks per module, and a picture of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.arithmetic.spectrum import spectrum
from kameleon.errors import MissingExtraError, SettingError
from kameleon.home import atomic_write
from kameleon.weights import ModuleName


@dataclass(frozen=True)
class ModuleOverview:
    """One module: the rank it was trained with, the rank that holds `share` of its energy, ‖Δ‖, singular values."""

    rank: int
    effective_rank: int
    norm: float
    singular_values: tuple[float, ...]


def overview(adapter: Adapter, share: float = 0.9) -> dict[str, ModuleOverview]:
    """Every module of the adapter."""
    found = {}
    for module, factors in adapter.factors.items():
        one = spectrum(factors)
        found[module] = ModuleOverview(factors.rank, one.rank_for(share), one.norm, tuple(one.values.tolist()))
    return found


def norms_by(parts: Mapping[str, ModuleOverview], axis: int) -> dict[int | str, float]:
    """‖Δ‖ of each layer (axis 0) or each kind of projection (axis 1); a module outside of the layers is in layer −1."""
    squares: dict[int | str, float] = {}
    for module, part in parts.items():
        name = ModuleName.parse(module)
        place = (name.layer, name.kind)[axis]
        squares[place] = squares.get(place, 0.0) + part.norm**2
    return {place: squares[place] ** 0.5 for place in sorted(squares, key=lambda p: (isinstance(p, str), p))}


def draw_norms(name: str, parts: Mapping[str, ModuleOverview], path: Path) -> None:
    """‖Δ‖ as a heat map, layers × kinds of projection, written to `path` as PNG.

    Raises MissingExtraError without matplotlib, SettingError when it cannot be written there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the picture needs matplotlib", "plot") from error
    layers, kinds = list(norms_by(parts, 0)), list(norms_by(parts, 1))
    grid = [[float("nan")] * len(kinds) for _ in layers]
    for module, part in parts.items():
        place = ModuleName.parse(module)
        grid[layers.index(place.layer)][kinds.index(place.kind)] = part.norm
    figure = Figure(figsize=(1.5 + 0.9 * len(kinds), 1.5 + 0.22 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0)
    axes.set_xticks(range(len(kinds)), [str(kind) for kind in kinds], rotation=45, ha="right")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set(title=f"{name}: size of the change in each layer", ylabel="layer")
    figure.colorbar(image, label="Frobenius norm")
    try:
        with atomic_write(path) as file:
            figure.savefig(file, dpi=120, format="png")
    except OSError as error:
        raise SettingError(f"the picture cannot be written to {path}: {error}; give another file") from error
