"""The schedule of a run: rows a step and epochs, the rows of each step, the looks, and the learning rate."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from kameleon.settings import Recipe

LOOKS = 8
"""Looks at the held-out rows in a run, unless `eval_every` is given."""


def derived_rows_per_step(rows: int) -> int:
    """Few rows get small steps, so that there are enough steps: LoRA learns little from a handful of them."""
    return next(size for below, size in ((320, 4), (1000, 8), (math.inf, 16)) if rows < below)


def derived_epochs(rows: int) -> float:
    """(1000 / rows)^0.7 in whole epochs, from 1 to 10: a small file makes some 100 steps only in several epochs."""
    return float(max(1, min(10, round((1000 / rows) ** 0.7))))


@dataclass(frozen=True)
class Schedule:
    """The rows, out of `rows`, of each step. `epochs` may be a fraction.

    A step ends with its epoch, so that it holds no row twice. Steps of an epoch have equal sizes (17 rows with at most
    16 a step are 9 and 8): a last step of one row would weigh as much as a full one.
    """

    rows: int
    epochs: float
    rows_per_step: int
    seed: int
    allowed_s: float | None = None
    """Seconds that the run may take. The share of the run follows the time if that is ahead of the steps."""

    @classmethod
    def of(cls, recipe: Recipe, rows: int) -> Schedule:
        """The schedule of `recipe` for `rows` rows, from whose number None is derived."""
        epochs = derived_epochs(rows) if recipe.epochs is None else recipe.epochs
        rows_per_step = derived_rows_per_step(rows) if recipe.rows_per_step is None else recipe.rows_per_step
        allowed_s = None if recipe.minutes is None else recipe.minutes * 60
        return cls(rows, epochs, rows_per_step, recipe.seed, allowed_s)

    @property
    def visits(self) -> int:
        """Rows that go through the base in the whole run, each counted once an epoch."""
        return max(1, math.ceil(round(self.rows * self.epochs, 6)))  # 100 · 0.07 is 7, though the float is above it

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each row is seen once; the last one may have fewer rows."""
        return math.ceil(self.rows / self.rows_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        whole, left = divmod(self.visits, self.rows)
        return whole * self.steps_per_epoch + self._steps(left)

    def visited(self, step: int) -> int:
        """Visits of the first `step` steps."""
        epoch, part = divmod(step, self.steps_per_epoch)
        visits = min(self.rows, self.visits - epoch * self.rows)  # the last epoch may be a part of one
        begun = math.ceil(visits * part / self._steps(visits)) if part else 0
        return min(self.visits, epoch * self.rows + begun)

    def rows_of(self, step: int) -> list[int]:
        """The rows of step `step` (from 0). Each epoch has its own order, which (seed, epoch) decides."""
        epoch = step // self.steps_per_epoch
        start, stop = (self.visited(place) - epoch * self.rows for place in (step, step + 1))
        return list(_order(self.rows, self.seed, epoch)[start:stop])

    def _steps(self, visits: int) -> int:
        """Steps of an epoch of `visits` rows; none has more rows than a step of a whole epoch."""
        return math.ceil(visits / math.ceil(self.rows / self.steps_per_epoch))

    def share(self, step: int, seconds: float = 0.0) -> float:
        """Share of the run that is done after `step` steps and `seconds` seconds, from 0 to 1."""
        done = step / self.steps
        return done if self.allowed_s is None else max(done, min(1.0, seconds / self.allowed_s))

    def looks(self, every: int | None) -> int:
        """Looks of a whole run: one each `every` steps and one at the end; with None LOOKS, evenly spread."""
        return min(LOOKS, self.steps) if every is None else math.ceil(self.steps / every)


def look_is_due(before: float, after: float) -> bool:
    """Whether a step from the share `before` to `after` of the run ends one of LOOKS equal parts."""
    return math.floor(after * LOOKS) > math.floor(before * LOOKS)


def learning_rate_at(before: float, after: float, *, peak: float, warmup: float) -> float:
    """The learning rate of a step from the share `before` to `after` of the run.

    It rises linearly over the first `warmup` share, then falls along a half cosine to a tenth of `peak`. While it rises
    it is the line's value at the step's end, so that the first step learns; then the cosine's value at its beginning.
    """
    if before < warmup:
        return peak * min(1.0, after / warmup)
    done = (before - warmup) / (1 - warmup or 1)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)
