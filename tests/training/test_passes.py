"""Packed passes, recomputed layers and accumulation: the same loss and gradients in any way."""

from dataclasses import replace

import pytest
import torch
from training.counting import card_of

from kameleon import Recipe
from kameleon.adapters.resident import Bank
from kameleon.data import pack
from kameleon.model.decoder import Layer
from kameleon.training.losses import token_logprobs
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee, fresh_adapter

RECIPE = Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=3)


def gradients(loaded, recipe, packs):
    bank = Bank(loaded.base)
    bank.add(fresh_adapter(loaded.base, "x", recipe, card_of(loaded)))
    trainee = Trainee(bank, "x", recipe)
    with torch.no_grad():  # B as after some training, so that A gets a gradient too
        trainee.adamw.parameters.add_(
            torch.randn(trainee.gradient.shape, generator=torch.Generator().manual_seed(1)) * 0.05
        )
    loss = 0.0
    for one in packs:
        hidden = loaded.base.decoder.hidden(one.tokens, one.segments, bank)
        total = -token_logprobs(loaded.base.decoder, hidden, one.labels).sum()
        total.backward()
        loss += total.item()
    return loss, trainee.gradient.clone()


@pytest.mark.parametrize("max_tokens", [64, 300, 10_000])
def test_packed_training_gives_the_loss_and_gradients_of_unpacked_training(tiny, rows, max_tokens):
    """With the shared system prompt computed once, too."""
    examples = tiny.read(rows).examples[:9]
    alone = [one for example in examples for one in pack([example], 10_000, adapter=0)]
    packed = pack(examples, max_tokens, adapter=0)
    assert max_tokens < 300 or any(p >= 0 for one in packed for p in one.segments.parents)
    loss, gradient = gradients(tiny, RECIPE, packed)
    expected_loss, expected = gradients(tiny, RECIPE, alone)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_computing_any_number_of_layers_again_instead_of_storing_them_changes_no_bit(tiny, rows):
    packs = pack(tiny.read(rows).examples[:9], 300, adapter=0)
    states = []
    for checkpoint_layers in range(len(tiny.base.decoder.layers) + 2):
        bank = Bank(tiny.base)
        bank.add(fresh_adapter(tiny.base, "x", RECIPE, card_of(tiny)))
        trainee = Trainee(bank, "x", RECIPE)
        for _ in range(2):
            train_step(tiny.base, bank, [trainee], packs, learning_rates=[1e-2], checkpoint_layers=checkpoint_layers)[0]
        states.append(trainee.adamw.parameters.clone())
    assert all(torch.equal(states[0], state) for state in states[1:])


def test_layers_are_computed_again_from_the_first_trained_one_on(tiny, rows, monkeypatch):
    recipe, ran = replace(RECIPE, layers=2), []
    bank = Bank(tiny.base)
    bank.add(fresh_adapter(tiny.base, "x", recipe, card_of(tiny)))
    layers, forward = tiny.base.decoder.layers, Layer.forward
    monkeypatch.setattr(
        Layer, "forward", lambda self, *rest, **how: ran.append(layers.index(self)) or forward(self, *rest, **how)
    )
    packs = pack(tiny.read(rows).examples[:1], 300, adapter=0)
    train_step(tiny.base, bank, [Trainee(bank, "x", recipe)], packs, learning_rates=[1e-2], checkpoint_layers=1)
    assert ran == [0, 1, 2, 1]


def test_accumulation_is_normalised_by_tokens_over_the_whole_step(tiny, rows):
    """One long pass and many short ones move A and B alike."""
    examples = tiny.read(rows).examples[:8]
    moved = []
    for max_tokens in (10_000, 100):
        bank = Bank(tiny.base)
        bank.add(fresh_adapter(tiny.base, "x", RECIPE, card_of(tiny)))
        trainee = Trainee(bank, "x", RECIPE)
        result = train_step(tiny.base, bank, [trainee], pack(examples, max_tokens, adapter=0), learning_rates=[1e-3])[0]
        moved.append((result.loss, result.grad_norm, result.trained_tokens))
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)
