"""The learning rate over a run."""

from __future__ import annotations

import math


def learning_rate_at(step: int, total_steps: int, peak: float, warmup: float) -> float:
    """Rises linearly over the first `warmup` share of the steps, then falls along a half cosine to a tenth of `peak`.

    `step` counts from 0.
    """
    rising = math.ceil(total_steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, total_steps - rising)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
