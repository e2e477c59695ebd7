"""AdamW against torch's own, with the mean over tokens and the clipping done by hand."""

import math

import pytest
import torch

from kameleon.ops import AdamW


@pytest.mark.parametrize("clip_norm", [1e9, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_equal_those_of_torch(clip_norm, weight_decay):
    torch.manual_seed(0)
    start = torch.randn(40_000)
    ours = AdamW.of(start.clone(), weight_decay)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.0, weight_decay=weight_decay)
    for step in range(1, 6):
        gradient = torch.randn(40_000)
        norm = ours.update(gradient, divisor=7.0, clip_norm=clip_norm, learning_rate=1e-2 / step)
        theirs.grad = gradient / 7.0
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_([theirs], clip_norm)), rel=1e-5)
        optimizer.param_groups[0]["lr"] = 1e-2 / step
        optimizer.step()
        torch.testing.assert_close(ours.parameters, theirs.detach(), rtol=1e-5, atol=1e-6)
    assert ours.steps == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    ours = AdamW.of(torch.ones(10), 0.1)
    norm = ours.update(torch.tensor([bad] + [1.0] * 9), divisor=1.0, clip_norm=1.0, learning_rate=0.1)
    assert not math.isfinite(norm)
    assert torch.equal(ours.parameters, torch.ones(10))
    assert not ours.mean.any()
    assert ours.steps == 0
