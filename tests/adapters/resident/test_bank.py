"""Resident adapters: mixed batches, fit, and the base they belong to."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter

import kameleon
from kameleon.adapters import Adapter, EndChange, LoraFactors, prove, verify
from kameleon.adapters.resident import Bank
from kameleon.errors import AdapterMismatchError, AdapterNotFoundError, WrongBaseError
from kameleon.model import module_shapes
from kameleon.ops import NO_ADAPTER, Segments
from kameleon.training import Recipe
from kameleon.training.trainee import fresh_adapter
from kameleon.weights import EMBEDDING, HEAD


@torch.inference_mode()
def logits(loaded, parts, slots, bank):
    segments = Segments(tuple(len(p) for p in parts), tuple(slots))
    return loaded.base.decoder.logits(loaded.base.decoder.hidden(torch.cat(parts), segments, bank))


def test_a_fresh_adapter_changes_nothing_to_the_bit(tiny):
    bank = Bank(tiny.base)
    card = random_adapter(tiny.base, "x").card
    slot = bank.add(fresh_adapter(tiny.base, "fresh", Recipe(rank=4), card))
    tokens = torch.randint(0, 320, (19,))
    assert torch.equal(logits(tiny, [tokens], [slot], bank), logits(tiny, [tokens], [NO_ADAPTER], bank))


def test_an_adapter_adds_its_delta_to_every_module(tiny):
    """The same as a base whose weights are W + delta."""
    bank, adapter = Bank(tiny.base), random_adapter(tiny.base, "one")
    slot = bank.add(adapter)
    tokens = torch.randint(0, 320, (19,))
    got = logits(tiny, [tokens], [slot], bank)
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny.base.files.path, dtype=torch.float32)
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            model.get_submodule(name).weight += factors.delta()
        torch.testing.assert_close(got, model(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_a_mixed_batch_gives_each_segment_what_it_would_get_alone(tiny):
    bank = Bank(tiny.base)
    slots = [bank.add(random_adapter(tiny.base, f"a{i}", seed=i, rank=2 + i)) for i in range(3)]
    order = [slots[1], NO_ADAPTER, slots[0], slots[0], slots[2], NO_ADAPTER]
    parts = [torch.randint(0, 320, (n,)) for n in (5, 9, 1, 30, 4, 2)]
    mixed = logits(tiny, parts, order, bank).split([len(p) for p in parts])
    for part, slot, got in zip(parts, order, mixed, strict=True):
        torch.testing.assert_close(got, logits(tiny, [part], [slot], bank), rtol=1e-4, atol=1e-4)


def test_slots_stay_put_and_are_used_again(tiny):
    bank = Bank(tiny.base)
    first, second = bank.add(random_adapter(tiny.base, "a")), bank.add(random_adapter(tiny.base, "b"))
    bank.remove("a")
    assert bank.slot("b") == second
    assert bank.add(random_adapter(tiny.base, "c")) == first
    assert sorted(bank.names()) == ["b", "c"]
    assert bank.slot(None) == NO_ADAPTER
    with pytest.raises(AdapterNotFoundError, match="resident: c, b"):
        bank.slot("a")


def test_adding_a_name_again_replaces_it(tiny):
    bank, tokens = Bank(tiny.base), torch.randint(0, 320, (9,))
    slot = bank.add(random_adapter(tiny.base, "a", seed=1))
    before = logits(tiny, [tokens], [slot], bank)
    assert bank.add(random_adapter(tiny.base, "a", seed=2)) == slot
    assert not torch.equal(logits(tiny, [tokens], [slot], bank), before)


def test_a_resident_gives_back_the_very_numbers(tiny):
    bank, adapter = Bank(tiny.base), random_adapter(tiny.base, "a")
    bank.add(adapter)
    assert bank.resident("a").snapshot(adapter.card).fingerprint == adapter.fingerprint


def test_the_lowest_adapted_layer(tiny):
    bank = Bank(tiny.base)
    adapter = random_adapter(tiny.base, "upper")
    upper = {name: f for name, f in adapter.modules.items() if ".layers.0." not in name}
    assert bank.lowest_layer(bank.add(replace(adapter, modules=upper))) == 1
    assert bank.lowest_layer(NO_ADAPTER) == tiny.base.config.num_layers


def test_an_adapter_of_another_base_is_refused_unless_allowed_by_name(tiny):
    stranger = random_adapter(tiny.base, "a")
    stranger = replace(stranger, card=replace(stranger.card, base_id="other", base_fingerprint="sha256:0123"))
    with pytest.raises(WrongBaseError, match="trained on other"):
        Bank(tiny.base).add(stranger)
    Bank(tiny.base).add(stranger, any_base=True)
    unknown = replace(stranger, card=replace(stranger.card, base_fingerprint=None))
    with pytest.raises(WrongBaseError, match="does not say which base"):
        prove(tiny.base, unknown)


def test_keys_and_shapes_that_do_not_fit_are_all_named(tiny):
    adapter = random_adapter(tiny.base, "a")
    wrong = {
        "model.layers.0.mlp.up_projection": adapter.modules["model.layers.0.mlp.up_proj"],
        "model.layers.1.mlp.up_proj": LoraFactors(torch.ones(2, 7), torch.ones(5, 2), 1.0),
    }
    with pytest.raises(AdapterMismatchError) as error:
        prove(tiny.base, replace(adapter, modules=wrong))
    assert "up_projection: the base has no such projection" in str(error.value)
    assert "made for 5 × 7, the base has 96 × 64" in str(error.value)
    with pytest.raises(AdapterMismatchError, match="no module at all"):
        Bank(tiny.base).add(replace(adapter, modules={}))


def test_the_proof_says_what_is_live_and_what_is_dead(tiny):
    adapter = random_adapter(tiny.base, "a")
    dead = "model.layers.1.mlp.up_proj"
    modules = {**adapter.modules, dead: replace(adapter.modules[dead], b=torch.zeros(96, 4))}
    proof = prove(tiny.base, replace(adapter, modules=modules))
    assert proof.live
    assert proof.matched_modules == len(module_shapes(tiny.base.config))
    assert proof.dead_modules == (dead,)
    assert proof.logits_moved_max > proof.logits_moved_mean > 0
    all_dead = {name: replace(f, b=torch.zeros_like(f.b)) for name, f in adapter.modules.items()}
    assert not prove(tiny.base, replace(adapter, modules=all_dead)).live


def test_an_adapter_that_makes_the_logits_infinite_is_refused(tiny):
    adapter = random_adapter(tiny.base, "a")
    huge = {name: replace(f, b=f.b * 1e38) for name, f in adapter.modules.items()}
    with pytest.raises(AdapterMismatchError, match="NaN or infinity"):
        prove(tiny.base, Adapter("a", huge, adapter.card))


def failed(checks):
    return [check.what for check in checks if not check.holds]


def test_verify_holds_for_a_whole_adapter_and_names_each_thing_that_does_not(tiny):
    adapter = random_adapter(tiny.base, "a")
    adapter = replace(adapter, card=replace(adapter.card, template_hash=tiny.base.template.hash))
    assert failed(verify(tiny.base, adapter)) == []
    other = replace(adapter, card=replace(adapter.card, base_fingerprint="sha256:0", template_hash="sha256:0"))
    assert failed(verify(tiny.base, other)) == ["base fingerprint", "chat template"]
    assert failed(verify(tiny.base, other, any_base=True)) == ["chat template"]
    dead = "model.layers.1.mlp.up_proj"
    part = replace(adapter, modules={**adapter.modules, dead: replace(adapter.modules[dead], b=torch.zeros(96, 4))})
    (check,) = [check for check in verify(tiny.base, part) if not check.holds]
    assert (check.what, check.found) == ("no dead modules", dead)
    stranger = replace(adapter, modules={**adapter.modules, "model.layers.9.mlp.up_proj": adapter.modules[dead]})
    checks = verify(tiny.base, stranger)
    assert failed(checks) == ["names and shapes", "logits move"]
    assert "model.layers.9.mlp.up_proj: the base has no such projection" in checks[0].found
    few = replace(adapter, modules={dead: adapter.modules[dead]})
    found = verify(tiny.base, few)[-1].found
    assert "20 of 21 have no side path: model.layers.0.self_attn.q_proj, " in found
    assert found.endswith("model.layers.0.mlp.gate_proj and 15 more")


def test_verify_computes_the_bases_hash_from_its_bytes(tiny_folder, tmp_path):
    """A note of the fingerprint is kept beside the file; a changed byte must show all the same."""
    shutil.copytree(tiny_folder, tmp_path / "base")
    loaded = kameleon.load(str(tmp_path / "base"), dtype=torch.float32)
    path = tmp_path / "base" / "model.safetensors"
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert loaded.base.weights.fingerprint() == loaded.base.fingerprint  # by the note
    assert failed(verify(loaded.base, random_adapter(loaded.base, "a"))) == ["base untouched"]


def test_loading_warns_of_another_chat_template(tiny):
    adapter = random_adapter(tiny.base, "a")
    with pytest.warns(UserWarning, match="another chat template"):
        tiny.load_adapter(replace(adapter, card=replace(adapter.card, template_hash="sha256:0")))
    assert tiny.load_adapter(adapter).template_equal is None


def test_a_frozen_bank_keeps_nothing_of_what_it_was_given_and_passes_memory_on(tiny):
    """What is read next goes where this was read to, and an adapter that comes may lie where one that left lay."""
    base, bank = tiny.base, Bank(tiny.base, frozen=True)
    vocab, hidden = base.config.vocab_size, base.config.hidden_size
    factors = LoraFactors(torch.randn(2, hidden), torch.randn(vocab, 2), 2.0)
    ends = {HEAD: EndChange(torch.randn(vocab, hidden)), EMBEDDING: EndChange(None, factors)}
    given = [replace(random_adapter(base, f"a{i}", i), ends=ends) for i in range(3)]
    bank.add(given[0])
    left = bank.table(0).memory.data_ptr()
    stays = bank.add(given[1])
    bank.remove("a0")
    slot = bank.add(given[2])
    assert bank.table(slot).memory.data_ptr() == left
    expected = [logits_of(base, bank, s) for s in (stays, slot)]
    for adapter in given:
        for part in (*adapter.modules.values(), *adapter.ends.values()):
            for tensor in part.tensors:
                tensor.fill_(torch.nan)
    for s, logits in zip((stays, slot), expected, strict=True):
        assert torch.isfinite(logits).all() and torch.equal(logits_of(base, bank, s), logits)
    assert not torch.equal(*expected)


@torch.inference_mode()
def logits_of(base, bank, slot):
    segments = Segments((5,), (slot,))
    return base.decoder.logits(base.decoder.hidden(torch.arange(5), segments, bank), [slot] * 5, bank)
