"""The lab's numbers as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RankPoint:
    """How far a side path of this rank stays from ΔW: ‖scaling·BA − ΔW‖ / ‖ΔW‖, trained, and the best there is."""

    rank: int
    identity_error: float
    identity_best: float
    rank4_error: float
    rank4_best: float


@dataclass(frozen=True)
class LabReport:
    """Everything the lab measured. Means and spreads are of (adapted output − original output) over all numbers of the
    outputs of 1,000 new inputs; the change that was asked for is +5 everywhere."""

    seed: int
    # (a) how little is trained
    full_1000: int  # numbers in a 1000 × 1000 layer, all trained by full fine-tuning
    trained_1000: int  # numbers that rank 4 trains there
    share_1000: float  # 1 − trained / full: how much fewer
    frozen_100: int  # the same on a 100 × 100 layer
    trained_100: int
    share_100: float  # frozen / (frozen + trained)
    # (b) a fresh side path
    fresh_change: float  # max |output with side path − output without|
    # (c) ten inputs, target = own output + 5
    rank: int
    alpha: float
    scaling: float  # alpha / rank, what B·A is multiplied with
    losses: tuple[float, ...]  # before each epoch, and after the last
    loss_first: float
    loss_last: float
    base_changed: bool  # whether any bit of the frozen weight differs after training
    weight_norm: float  # ‖W‖
    change_norm: float  # ‖scaling · B·A‖
    # (d) what it learned
    train_sample: tuple[float, ...]  # the first output's differences on the ten inputs it saw
    train_mean: float
    heldout_sample: tuple[float, ...]  # and on the 1,000 new ones
    heldout_mean: float
    heldout_spread: float
    heldout_mean_bias_10: float  # side path and a trained bias, ten inputs
    heldout_mean_bias_only_10: float  # a trained bias alone, ten inputs
    heldout_mean_lora_1000: float  # side path alone, 1,000 inputs
    loss_lora_1000: float  # what it could not learn there
    heldout_mean_bias_1000: float  # side path and a trained bias, 1,000 inputs
    heldout_mean_feature_1000: float  # side path with an input that is always 1, 1,000 inputs
    # (e) rank
    rank_curve: tuple[RankPoint, ...]

    def to_json(self) -> dict[str, Any]:
        """A document for `json.dumps`: all fields but the samples, which only the picture needs."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("_sample")}
