"""The trained numbers travel between models, and every key must find its place."""

import pytest
import torch
from torch import nn
from torch_modules.models import PICTURES, SmallCnn, bert, disturb

from kameleon.errors import LoraError
from kameleon.torch_modules import LoraConfig, attach, load_lora_state_dict, lora_state_dict, merge

CONFIG = LoraConfig(targets=("stem", "head"), rank=4, alpha=8)


@pytest.fixture
def state():
    return lora_state_dict(disturb(attach(SmallCnn(), CONFIG)))


def test_numbers_travel_through_a_file(state, tmp_path):
    torch.save(state, tmp_path / "lora.pt")
    target = attach(SmallCnn(), CONFIG)
    load_lora_state_dict(target, torch.load(tmp_path / "lora.pt", weights_only=True))
    arrived = lora_state_dict(target)
    assert arrived.keys() == state.keys()
    assert all(torch.equal(arrived[key], state[key]) for key in state)


def test_the_state_is_a_copy():
    model = attach(SmallCnn(), CONFIG)
    state = lora_state_dict(model)
    disturb(model)
    assert not state["head.lora_b"].any()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: {k.replace("stem", "stam"): v for k, v in s.items()}, "stam.lora_a has no place.*stem.lora_a is"),
        (lambda s: {k: v for k, v in s.items() if k != "head.lora_b"}, "head.lora_b is missing"),
        (lambda s: {**s, "tail.lora_a": torch.zeros(1)}, "tail.lora_a has no place"),
        (lambda s: {**s, "head.lora_a": torch.zeros(4, 9)}, r"head.lora_a is \[4, 9\], the model's is \[4, 12\]"),
        (lambda s: {**s, "head.scaling": torch.tensor(3.0)}, "head.scaling is 3.0, the model's is 2.0"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused_and_nothing_changes(state, damage, told):
    model = attach(SmallCnn(), CONFIG)
    before = lora_state_dict(model)
    with pytest.raises(LoraError, match=told):
        load_lora_state_dict(model, damage(state))
    assert all(torch.equal(before[key], value) for key, value in lora_state_dict(model).items())


def test_a_merged_model_takes_no_numbers(state):
    model = attach(SmallCnn(), CONFIG)
    merge(model)
    with pytest.raises(LoraError, match="merged: unmerge first"):
        load_lora_state_dict(model, state)


def test_a_model_without_side_paths_is_refused(state):
    with pytest.raises(LoraError, match="no side paths"):
        lora_state_dict(bert())
    with pytest.raises(LoraError, match="no side paths"):
        load_lora_state_dict(SmallCnn(), {})


def test_training_on_from_saved_numbers_gives_the_same_bits():
    def run(steps, state=None):
        torch.manual_seed(0)
        model = attach(SmallCnn().train(), CONFIG)
        if state:
            load_lora_state_dict(model, state)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(PICTURES), torch.ones(2, 5)).backward()
            optimizer.step()
        return lora_state_dict(model)

    whole, halves = run(4), run(2, run(2))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
