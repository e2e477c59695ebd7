"""Going on from an adapter that exists, with more rows."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from training.counting import write_rows

import kameleon
from kameleon import Recipe
from kameleon.adapters import Adapter, Card, EndChange, LoraFactors, Parent
from kameleon.adapters.formats import write_adapter
from kameleon.errors import (
    AdapterError,
    AdapterNotFoundError,
    CheckpointError,
    RunInterruptedError,
    SettingError,
    WrongBaseError,
)
from kameleon.weights import HEAD

FIRST = Recipe(rank=3, alpha=6.0, layers=2, targets="v_proj,q_proj", rows_per_step=4, learning_rate=1e-2)
MORE = Recipe(rows_per_step=4, learning_rate=1e-3)


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 24)


@pytest.fixture
def law(tiny, rows):
    return tiny.train(rows, "law", recipe=FIRST).adapter


def interrupt(report):
    if report.step == 2:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_goes_on_from_an_adapter_with_its_shape_and_names_it_as_parent(tiny, rows, law):
    losses = []
    more = tiny.train(rows, "law2", recipe=MORE, from_adapter="law", on_step=lambda r: losses.append(r.loss)).adapter
    fresh = []
    tiny.train(rows, "fresh", recipe=replace(FIRST, seed=1), on_step=lambda r: fresh.append(r.loss))
    assert losses[0] < 0.9 * fresh[0]
    assert more.modules.keys() == law.modules.keys() and len(more.modules) == 4
    assert {(f.rank, f.alpha) for f in more.modules.values()} == {(3, 6.0)}
    card = tiny.shelf.load("law2").card
    assert card.parents == (Parent("law", law.fingerprint, 1.0, "trained further"),)
    assert {k: card.recipe[k] for k in ("rank", "alpha", "layers")} == {"rank": 3, "alpha": 6.0, "layers": 2}
    assert tiny.shelf.load("law").fingerprint == law.fingerprint


def test_under_the_same_name_it_becomes_a_new_version(tiny, rows, law):
    more = tiny.train(rows, "law", recipe=MORE, from_adapter="law").adapter
    assert [v.current for v in tiny.shelf.history("law")] == [False, True]
    assert tiny.shelf.load("law").fingerprint == more.fingerprint != law.fingerprint
    tiny.train(rows, "other", recipe=MORE)
    with pytest.raises(SettingError, match="'other' is on the shelf already"):
        tiny.train(rows, "other", recipe=MORE, from_adapter="law")


@pytest.mark.parametrize("name", ["law", "law2"])
def test_it_resumes_to_the_same_bits_from_the_version_that_it_began_with(tiny, rows, law, name):
    whole = tiny.train(rows, "whole", recipe=MORE, from_adapter="law").adapter
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, name, recipe=MORE, from_adapter="law", on_step=interrupt)
    with pytest.raises(CheckpointError, match="from: was"):
        tiny.train(rows, name, recipe=replace(FIRST, learning_rate=1e-3), resume=True)
    tiny.shelf.save(replace(whole, name="law"))  # meanwhile the name means another version
    resumed = tiny.train(rows, name, recipe=MORE, from_adapter="law", resume=True).adapter
    assert resumed.fingerprint == whole.fingerprint


def test_settings_that_contradict_the_adapter_are_refused(tiny, rows, law):
    asked = replace(MORE, rank=8, targets="q_proj, v_proj", layers=2, variant="dora")
    with pytest.raises(SettingError, match=r"'law'.* has rank 3, not 8, variant lora, not dora: leave that out"):
        tiny.train(rows, "law2", recipe=asked, from_adapter="law")
    with pytest.raises(AdapterNotFoundError, match="did you mean 'law'"):
        tiny.train(rows, "law2", recipe=MORE, from_adapter="lav")


def test_an_adapter_of_another_base_is_refused(tiny, rows, law):
    foreign = replace(law, card=replace(law.card, base_fingerprint="sha256:other"))
    with pytest.raises(WrongBaseError, match="was trained on"):
        tiny.train(rows, "law2", recipe=MORE, from_adapter=foreign)


def test_parts_that_training_leaves_alone_are_refused_by_name(tiny, rows, law):
    head = EndChange(factors=LoraFactors(torch.ones(1, 64), torch.ones(320, 1), 1.0))
    one = next(iter(law.modules))
    biased = law.modules | {one: replace(law.modules[one], b_bias=torch.ones(len(law.modules[one].b)))}
    for adapter, part in ((replace(law, ends={HEAD: head}), HEAD), (replace(law, modules=biased), "lora_bias")):
        with pytest.raises(AdapterError, match=rf"'law' has .*{part}.*only A, B and DoRA's"):
            tiny.train(rows, "law2", recipe=MORE, from_adapter=adapter)


def test_an_adapter_whose_modules_differ_is_taken_as_it_is(tiny, rows, tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.layers.1.self_attn.q_proj": (64, 64, 2), "model.layers.2.mlp.up_proj": (96, 64, 5)}
    modules = {
        name: LoraFactors(torch.randn(rank, size, generator=generator), torch.zeros(out, rank), 4.0, rslora=True)
        for name, (out, size, rank) in shapes.items()
    }
    card = Card(base_id=tiny.base.name, base_fingerprint=tiny.base.fingerprint)
    write_adapter(Adapter("odd", modules, card), tmp_path / "odd")
    more = tiny.train(rows, "more", recipe=MORE, from_adapter=tmp_path / "odd").adapter
    assert {name: (*f.b.shape, f.rslora) for name, f in more.modules.items()} == {
        "model.layers.1.self_attn.q_proj": (64, 2, True),
        "model.layers.2.mlp.up_proj": (96, 5, True),
    }
    assert all(f.b.any() for f in more.modules.values())
    assert more.card.recipe["rank"] == 5 and more.card.recipe["targets"] == "q_proj,up_proj"


def test_dora_goes_on_with_its_magnitudes(tiny, rows):
    first = tiny.train(rows, "first", recipe=replace(FIRST, variant="dora")).adapter
    more = tiny.train(rows, "more", recipe=MORE, from_adapter=first).adapter
    assert more.card.recipe["variant"] == "dora"
    for name, factors in more.modules.items():
        moved = (factors.magnitude - first.modules[name].magnitude).abs().max()
        assert 0 < moved < 0.05


def test_the_commands_base_is_that_of_the_adapter(run, tiny_folder, rows, law):
    words = ("train", "--data", rows, "--from", "law", "--rows-per-step", 4)
    status, _, said = run(*words, "--name", "law")
    assert (
        status == 0 and f"base tiny: local folder {tiny_folder}" in said and "as adapter law, which it goes on" in said
    )
    assert kameleon.Shelf().load("law").card.recipe["rank"] == 3
    status, _, said = run(*words, "--name", "other", "--rank", 8)
    assert status == 2 and "has rank 3, not 8" in said


def test_rows_without_a_system_message_get_that_of_the_adapter(tiny, rows, tmp_path):
    styled = tmp_path / "styled.jsonl"
    talk = [("system", "Answer in rhyme."), ("user", "Hi"), ("assistant", "Hi, says I.")]
    styled.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) + "\n")
    first = tiny.train(styled, "first", recipe=FIRST).adapter
    heard = []
    more = tiny.train(rows, "more", recipe=MORE, from_adapter=first, on_plan=heard.append).adapter
    plain = tiny.read(rows)
    assert first.card.system_prompt == more.card.system_prompt == "Answer in rhyme." and plain.system_prompt is None
    assert heard[0].workload.largest.tokens > max(len(e.tokens) for e in plain.examples)


def test_a_broken_version_does_not_hide_the_one_that_a_run_began_with(tiny, rows, law):
    broken = tiny.shelf.path("law")
    whole = tiny.train(rows, "law", recipe=MORE, from_adapter="law").adapter
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "law2", recipe=MORE, from_adapter="law", on_step=interrupt)
    (broken / "adapter_model.safetensors").write_bytes(b"broken")
    tiny.shelf.save(replace(whole, modules=law.modules))
    resumed = tiny.train(rows, "law2", recipe=MORE, from_adapter="law", resume=True).adapter
    assert resumed.card.parents[0].fingerprint == whole.fingerprint
