"""One step: packing, accumulation, activation checkpointing and other adapters in a pass change no gradient."""

from dataclasses import astuple, replace

import pytest
import torch
from fakes import random_adapter
from training.counting import card_of

from kameleon import Recipe
from kameleon.adapters.resident import Bank
from kameleon.data import Example, pack
from kameleon.model.decoder import Layer
from kameleon.training.losses import token_logprobs
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee, fresh_adapter

RECIPE = Recipe(rank=4)


def fresh_trainee(loaded, recipe=RECIPE):
    """A fresh adapter, alone in a bank, to be trained."""
    bank = Bank(loaded.base)
    bank.add(fresh_adapter(loaded.base, "x", recipe, card_of(loaded)))
    return bank, Trainee(bank, "x", recipe)


def gradients(loaded, passes):
    bank, trainee = fresh_trainee(loaded)
    with torch.no_grad():  # B as after some training, so that A gets a gradient too
        trainee.adamw.parameters.add_(
            torch.randn(trainee.gradient.shape, generator=torch.Generator().manual_seed(1)) * 0.05
        )
    loss = 0.0
    for one in passes:
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
    loss, gradient = gradients(tiny, packed)
    expected_loss, expected = gradients(tiny, alone)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_activation_checkpointing_of_any_number_of_layers_changes_no_bit(tiny, rows):
    passes = pack(tiny.read(rows).examples[:9], 300, adapter=0)
    states = []
    for count in range(len(tiny.base.decoder.layers) + 2):
        bank, trainee = fresh_trainee(tiny)
        for _ in range(2):
            train_step(tiny.base, bank, [trainee], passes, learning_rates=[1e-2], checkpoint_layers=count)
        states.append(trainee.adamw.parameters.clone())
    assert all(torch.equal(states[0], state) for state in states[1:])


def test_layers_are_recomputed_from_the_first_trained_one_on(tiny, rows, monkeypatch):
    bank, trainee = fresh_trainee(tiny, replace(RECIPE, layers=2))
    layers, forward, ran = tiny.base.decoder.layers, Layer.forward, []
    monkeypatch.setattr(
        Layer, "forward", lambda self, *rest, **how: ran.append(layers.index(self)) or forward(self, *rest, **how)
    )
    passes = pack(tiny.read(rows).examples[:1], 300, adapter=0)
    train_step(tiny.base, bank, [trainee], passes, learning_rates=[1e-2], checkpoint_layers=1)
    assert ran == [0, 1, 2, 1]


def test_accumulation_is_normalised_by_tokens_over_the_whole_step(tiny, rows):
    """One long pass and many short ones move A and B alike."""
    examples = tiny.read(rows).examples[:8]
    moved = []
    for max_tokens in (10_000, 100):
        bank, trainee = fresh_trainee(tiny)
        passes = pack(examples, max_tokens, adapter=0)
        [result] = train_step(tiny.base, bank, [trainee], passes, learning_rates=[1e-3])
        moved.append((result.loss, result.grad_norm, result.trained_tokens))
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)


def test_two_adapters_in_one_pass_learn_what_each_learns_alone(tiny):
    """Rows of even number train one, the others the other; a third adapter stays as it is."""
    examples = [Example(i, tuple(range(3 + i, 30 + 5 * i)), (True,) * (27 + 4 * i)) for i in range(6)]

    def step(passes, *slots):
        bank = Bank(tiny.base)
        for seed, name in enumerate(("even", "odd", "still")):
            bank.add(random_adapter(tiny.base, name, seed))
        trainees = [Trainee(bank, bank.names()[slot], RECIPE) for slot in slots]
        results = train_step(tiny.base, bank, trainees, passes, learning_rates=[1e-3 * (slot + 1) for slot in slots])
        return results, [bank.resident(name).flat.clone() for name in bank.names()]

    [both] = pack(examples, 10_000, adapter=0)
    owners = tuple(span.row % 2 for span in both.spans)
    together, numbers = step([replace(both, segments=replace(both.segments, adapters=owners))], 0, 1)
    for slot in (0, 1):
        [alone], alone_numbers = step(pack(examples[slot::2], 10_000, adapter=slot), slot)
        assert astuple(together[slot]) == pytest.approx(astuple(alone), rel=1e-4)
        torch.testing.assert_close(numbers[slot], alone_numbers[slot], rtol=1e-4, atol=1e-5)
        assert torch.equal(numbers[2], alone_numbers[2])
