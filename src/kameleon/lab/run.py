"""The lab from start to end: every number comes from layers that `kameleon.torch_modules` adapted just now."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from kameleon.errors import SettingError
from kameleon.lab.constant import ALPHA, RANK, learn_constant
from kameleon.lab.pictures import require_matplotlib, save_pictures
from kameleon.lab.ranks import rank_curve
from kameleon.lab.report import LabReport
from kameleon.settings import SEEDS
from kameleon.torch_modules import Count, LoraConfig, attach, count


def run_lab(out_dir: Path | None = None, seed: int = 0) -> LabReport:
    """Compute the report, the same for the same seed; with `out_dir`, save the pictures there as PNG files.

    The caller's random state stays as it was. Raises SettingError for a seed of more than 64 bits, MissingExtraError
    for pictures without matplotlib, before the work begins.
    """
    if seed not in SEEDS:
        raise SettingError(f"seed is {seed}; it must be a number of 64 bits")
    if out_dir is not None:
        require_matplotlib()
    with torch.random.fork_rng(devices=[]):
        report = _measure(seed)
    if out_dir is not None:
        save_pictures(report, out_dir)
    return report


def _measure(seed: int) -> LabReport:
    large, small = _count(1000), _count(100)
    ten = learn_constant(seed, 10)
    thousand = learn_constant(seed, 1000)
    return LabReport(
        seed=seed,
        full_1000=large.frozen,
        trained_1000=large.trainable,
        share_1000=1 - large.trainable / large.frozen,
        frozen_100=small.frozen,
        trained_100=small.trainable,
        share_100=1 - small.share,
        fresh_change=_fresh_change(seed),
        rank=RANK,
        alpha=ALPHA,
        scaling=ALPHA / RANK,
        losses=ten.losses,
        loss_first=ten.losses[0],
        loss_last=ten.losses[-1],
        base_changed=ten.base_changed,
        weight_norm=ten.weight_norm,
        change_norm=ten.change_norm,
        train_sample=tuple(ten.train_difference[:, 0].tolist()),
        train_mean=float(ten.train_difference.mean()),
        heldout_sample=tuple(ten.heldout_difference[:, 0].tolist()),
        heldout_mean=float(ten.heldout_difference.mean()),
        heldout_spread=float(ten.heldout_difference.std()),
        heldout_mean_bias_10=_heldout_mean(seed, 10, bias=True),
        heldout_mean_bias_only_10=_heldout_mean(seed, 10, lora=False, bias=True),
        heldout_mean_lora_1000=float(thousand.heldout_difference.mean()),
        loss_lora_1000=thousand.losses[-1],
        heldout_mean_bias_1000=_heldout_mean(seed, 1000, bias=True),
        heldout_mean_feature_1000=_heldout_mean(seed, 1000, feature=True),
        rank_curve=rank_curve(seed),
    )


def _count(width: int) -> Count:
    """What rank 4 trains and leaves frozen in a square layer without bias."""
    model = nn.Sequential(nn.Linear(width, width, bias=False))
    return count(attach(model, LoraConfig(targets=("0",), rank=4)))


@torch.no_grad()
def _fresh_change(seed: int) -> float:
    """max |y with a fresh side path − y without|; zero, not merely small."""
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(1000, 1000)), torch.randn(64, 1000)
    before = model(x)
    return float((attach(model, LoraConfig(targets=("0",), rank=4))(x) - before).abs().max())


def _heldout_mean(seed: int, inputs: int, *, lora: bool = True, bias: bool = False, feature: bool = False) -> float:
    return float(learn_constant(seed, inputs, lora=lora, bias=bias, feature=feature).heldout_difference.mean())
