"""An adapter at another rank, and the error that makes."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.arithmetic.spectrum import Spectrum, spectrum
from kameleon.errors import SettingError
from kameleon.settings import MOST_RANK


@dataclass(frozen=True)
class Truncation:
    """One module truncated: `error` is ‖Δ − Δ′‖ / ‖Δ‖ (Frobenius), `energy` the share of ‖Δ‖² that is kept."""

    rank: int
    norm: float
    error: float
    energy: float


def truncation(whole: Spectrum, rank: int) -> Truncation:
    """What truncating to `rank` does to a module; one that changes nothing loses nothing."""
    error = whole.error_at(rank) / whole.norm if whole.norm else 0.0
    return Truncation(rank, whole.norm, error, 1 - error**2)


def resize(
    adapter: Adapter, name: str, rank: int | None = None, budget: int | None = None
) -> tuple[Adapter, dict[str, Truncation]]:
    """The nearest adapter of `rank`, or of at most `budget` numbers in all; and what each module lost.

    With a budget, ranks go where a number keeps most: singular directions in falling order of σ² / (in + out), a module
    at a time no further than its own rank; a module that gets none is left out. A larger rank than before changes
    nothing. Raises SettingError unless exactly one of the two is given, for a rank above MOST_RANK, or when not even
    one direction is affordable.
    """
    if (rank is None) == (budget is None) or any(number is not None and number < 1 for number in (rank, budget)):
        raise SettingError(f"rank is {rank} and budget {budget}: give one of them, at least 1")
    if rank is not None and rank > MOST_RANK:
        raise SettingError(f"rank is {rank}; it must be at most {MOST_RANK}")
    adapter.require_plain("resizing")
    found = {module: spectrum(factors) for module, factors in adapter.modules.items()}
    ranks = dict.fromkeys(found, rank) if rank is not None else _spend(budget or 0, found)
    kept = {module: found[module].truncated(r) for module, r in ranks.items() if r}
    if not kept:
        raise SettingError(f"a budget of {budget} numbers holds not one direction of {adapter.name!r}")
    settings = {"method": "resize", "rank": rank, "budget": budget}
    recipe = {key: value for key, value in settings.items() if value is not None}
    card = adapter.card.derived((adapter.as_parent(1.0, "resize"),), recipe, adapter.card.system_prompt)
    return Adapter(name, kept, card), {module: truncation(found[module], ranks[module] or 0) for module in found}


def _spend(budget: int, found: dict[str, Spectrum]) -> dict[str, int]:
    ranks = dict.fromkeys(found, 0)
    cost = {module: one.left.shape[0] + one.right.shape[1] for module, one in found.items()}
    directions = [
        (float(value) ** 2 / cost[module], module)
        for module, one in found.items()
        for value in one.values[: one.true_rank]
    ]
    full: set[str] = set()
    for _, module in sorted(directions, key=lambda direction: -direction[0]):
        if module in full or cost[module] > budget:
            full.add(module)  # its later directions must not come before this one
            continue
        ranks[module] += 1
        budget -= cost[module]
    return ranks


def total_error(parts: dict[str, Truncation]) -> float:
    """‖Δ − Δ′‖ / ‖Δ‖ over all modules together."""
    whole = sum(part.norm**2 for part in parts.values())
    return (sum((part.norm * part.error) ** 2 for part in parts.values()) / whole) ** 0.5 if whole else 0.0
