"""Scores on test sets."""

import pytest
import torch
from tiny import save_base

import kameleon
from kameleon.adapters import Bank
from kameleon.data import Example, pack
from kameleon.ops import NO_ADAPTER, linear_cross_entropy
from kameleon.training import evaluate, make_test_set


def test_a_score_in_bf16_is_the_loss_of_training(tmp_path):
    """Not of logits that were rounded on the way, as products in bf16 leave them if nobody asks for more."""
    # Stored in bf16: where bf16 is widened, not all kernels round a stored fp32 weight.
    save_base(tmp_path / "base", "llama tied").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    base = kameleon.load(str(tmp_path / "base"), dtype=torch.bfloat16).base
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, base.config.vocab_size, (30 + i,), generator=draw).tolist() for i in range(6)]
    examples = [Example(i, tuple(row), (False,) * 9 + (True,) * (len(row) - 9)) for i, row in enumerate(rows)]
    (score,) = evaluate(base, Bank(base), [None], make_test_set(base, "some", examples, [()] * len(rows)))
    loss, decoder = 0.0, base.decoder
    for one in pack(examples, 1024, NO_ADAPTER):
        hidden = decoder.hidden(one.tokens, one.segments)
        loss += linear_cross_entropy(hidden, decoder.head, one.labels, base.config.vocab_size).item()
    assert score.loss * sum(len(row) - 9 for row in rows) == pytest.approx(loss, rel=1e-6)
