"""Losses: terms of each token by hand, sums of several adapters apart, and a second loss that is one function."""

import pytest
import torch
from fakes import random_adapter

from kameleon.adapters.resident import Bank
from kameleon.data import Example, pack
from kameleon.ops import IGNORE, Segments
from kameleon.training.losses import mean_loss, next_token_loss, pass_terms, token_logprobs

ROWS = [
    Example(0, (1, 2, 3, 4, 5), (False, False, True, True, True)),
    Example(1, (9, 8, 7), (False, True, True)),
]


@pytest.fixture
def bank(tiny):
    bank = Bank(tiny.base)
    bank.add(random_adapter(tiny.base, "a"))
    return bank


def by_hand(tiny, bank, example):
    """Σ log p of the trained tokens of one row, by a plain softmax over all logits."""
    hidden = tiny.base.decoder.hidden(torch.tensor(example.tokens), Segments((len(example.tokens),), (0,)), bank)
    logprobs = (hidden @ tiny.base.decoder.head.dense().T).double().log_softmax(-1)
    return sum(
        logprobs[i - 1, token]
        for i, (token, trained) in enumerate(zip(example.tokens, example.trained, strict=True))
        if trained
    )


def test_log_probabilities_are_those_of_a_plain_softmax_and_zero_where_nothing_is_learned(tiny, bank):
    [packed] = pack(ROWS, 100, adapter=0)
    hidden = tiny.base.decoder.hidden(packed.tokens, packed.segments, bank)
    logprobs = token_logprobs(tiny.base.decoder, hidden, packed.labels)
    assert logprobs.dtype == torch.float64 and not logprobs[packed.labels == IGNORE].any()
    whole = (hidden @ tiny.base.decoder.head.dense().T).double().log_softmax(-1)
    learned = (packed.labels != IGNORE).nonzero().flatten()
    torch.testing.assert_close(logprobs[learned], whole[learned, packed.labels[learned]], rtol=1e-5, atol=1e-5)


def test_the_loss_of_fine_tuning_is_the_weighted_sum_and_a_mean_counts_trained_tokens(tiny, bank):
    expected = -float(sum(by_hand(tiny, bank, row) for row in ROWS))
    for passes in (pack(ROWS, 100, adapter=0), pack(ROWS, 5, adapter=0)):
        sums = [pass_terms(tiny.base.decoder, bank, one).sum().item() for one in passes]
        assert sum(sums) == pytest.approx(expected, rel=1e-5)
        assert mean_loss(tiny.base.decoder, bank, passes) == pytest.approx(expected / 5, rel=1e-5)


def test_another_loss_is_one_function_of_the_same_log_probabilities(tiny, bank):
    """The gradient of Σ (log p)² is 2 log p times that of log p."""
    passes = pack(ROWS, 100, adapter=0)

    def squared(logprobs, packed):
        return packed.weights * logprobs.square()

    resident = bank.resident("a")
    for factor in resident.factors():
        factor.requires_grad_()
    [packed] = passes
    terms = pass_terms(tiny.base.decoder, bank, packed, loss=squared)
    got = torch.autograd.grad(terms.sum(), resident.factors())
    fixed = pass_terms(tiny.base.decoder, bank, packed).detach()
    plain = pass_terms(tiny.base.decoder, bank, packed, loss=lambda p, one: 2 * fixed * next_token_loss(p, one))
    for mine, wanted in zip(got, torch.autograd.grad(plain.sum(), resident.factors()), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)
    assert mean_loss(tiny.base.decoder, bank, passes, loss=squared) == pytest.approx(terms.sum().item() / 5)
