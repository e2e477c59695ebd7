"""A sample of rows, for places where not all rows can be looked at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def sample(items: Sequence[T], most: int, *, seed: int = 0) -> list[T]:
    """At most `most` of `items`, in their order: `items` are cut into `most` stretches, and one is drawn from each.

    So in a file that holds one task after another each task gets its share. The same seed draws the same places.
    """
    count = min(most, len(items))
    draw = random.Random(f"sample/{seed}")
    borders = [len(items) * number // count for number in range(count + 1)] if count else []
    return [items[draw.randrange(start, stop)] for start, stop in pairwise(borders)]
