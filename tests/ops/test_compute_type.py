"""The type to multiply in is measured, and what disturbs for a moment does not decide."""

import itertools

import pytest
import torch

from kameleon import ops
from kameleon.ops import compute_type

FP32_S, BF16_S = 2e-3, 1e-3


@pytest.fixture
def measure(monkeypatch):
    """Chooses anew, with seconds that `bf16_s` gives for each turn in bf16."""

    def measured(bf16_s):
        seconds = iter(bf16_s)
        monkeypatch.setattr(
            compute_type, "_seconds", lambda x, w: next(seconds) if x.dtype == torch.bfloat16 else FP32_S
        )
        return ops.measure_compute_type.__wrapped__()

    return measured


def test_the_compute_type_names_both_measured_speeds():
    chosen = ops.measure_compute_type()
    assert chosen.dtype in (torch.float32, torch.bfloat16)
    assert "bf16" in chosen.reason
    assert "fp32" in chosen.reason


def test_bf16_is_chosen_where_it_is_clearly_faster(measure):
    assert measure(itertools.repeat(BF16_S)).dtype == torch.bfloat16
    assert measure(itertools.repeat(FP32_S / 1.1)).dtype == torch.float32
    assert measure(itertools.repeat(50 * FP32_S)).dtype == torch.float32


def test_a_program_that_disturbs_bf16_for_a_while_does_not_decide(measure):
    disturbed = itertools.repeat(50 * FP32_S, 100)
    assert measure(itertools.chain(disturbed, itertools.repeat(BF16_S))).dtype == torch.bfloat16
