"""Adapters on disk: exact round trips, strict reading, and writes that are whole or not at all."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from safetensors.torch import load_file, save_file

from kameleon.adapters import Card, LoraFactors, Parent, Shelf
from kameleon.adapters.formats import read_adapter, write_adapter
from kameleon.errors import AdapterError, AdapterFileError, AdapterNotFoundError


@pytest.fixture
def saved(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_adapter(adapter, tmp_path / "mine")
    return adapter, tmp_path / "mine"


def change_config(folder, **values):
    (folder / "kameleon.json").unlink(missing_ok=True)  # which would tell that something changed
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(folder, change):
    (folder / "kameleon.json").unlink(missing_ok=True)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(change(dict(tensors)), path)


def test_a_round_trip_is_exact_and_the_card_does_not_count_in_the_fingerprint(saved):
    adapter, folder = saved
    got = read_adapter(folder)
    assert got.fingerprint == adapter.fingerprint == replace(adapter, card=Card()).fingerprint
    assert got.card == adapter.card
    first = next(iter(adapter.modules.values()))
    first.b[0, 0] += 1
    assert read_adapter(folder).fingerprint != replace(adapter).fingerprint


def test_what_could_not_be_read_again_is_not_written(saved, tmp_path):
    wide = LoraFactors(torch.ones(4097, 2), torch.ones(2, 4097), 1.0)
    with pytest.raises(AdapterFileError, match="rank 4097; at most 4096"):
        write_adapter(replace(saved[0], modules={"model.layers.0.mlp.up_proj": wide}), tmp_path / "wide")
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "some"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"r": 7}, "the config says rank 7"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
    ],
)
def test_what_would_not_be_applied_is_refused_by_name(saved, values, told):
    change_config(saved[1], **values)
    with pytest.raises(AdapterFileError, match=told):
        read_adapter(saved[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: {k: v for k, v in t.items() if k != next(iter(t))}, "without its partner"),
        (lambda t: {k: v.fill_(float("nan")) for k, v in t.items()}, "NaN"),
        (lambda t: {k.replace("lora_A", "lora_embedding_A"): v for k, v in t.items()}, "not a LoRA factor"),
        (lambda t: {}, "no LoRA factors at all"),
    ],
)
def test_damaged_factors_are_refused(saved, change, told):
    change_tensors(saved[1], change)
    with pytest.raises(AdapterFileError, match=told):
        read_adapter(saved[1])


def test_windows_byte_order_mark_is_no_part_of_config_and_card(saved):
    for name in ("adapter_config.json", "kameleon.json"):
        (saved[1] / name).write_bytes(b"\xef\xbb\xbf" + (saved[1] / name).read_bytes())
    assert read_adapter(saved[1]).fingerprint == saved[0].fingerprint


def test_half_precision_factors_become_fp32(saved):
    change_tensors(saved[1], lambda t: {k: v.bfloat16() for k, v in t.items()})
    assert all(f.a.dtype == f.b.dtype == torch.float32 for f in read_adapter(saved[1]).modules.values())


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000, -1])
def test_a_file_cut_short_is_refused(saved, kept):
    path = saved[1] / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(AdapterFileError, match="damaged or was changed"):
        read_adapter(saved[1])
    (saved[1] / "kameleon.json").unlink()
    with pytest.raises(AdapterFileError, match="damaged or cut short"):
        read_adapter(saved[1])


def test_a_kind_of_number_that_torch_does_not_know_is_refused(saved):
    header = b'{"a":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}      '
    (saved[1] / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    (saved[1] / "kameleon.json").unlink()
    with pytest.raises(AdapterFileError, match="F8_E8M0"):
        read_adapter(saved[1])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("adapter_model.bin", "adapter_model.bin: pickles can run code and are never opened, save it as safetensors"),
        ("adapter_model-00001-of-00002.bin", "adapter_model-00001-of-00002.bin: pickles can run code"),
        (
            "adapter_model-00001-of-00002.safetensors",
            "it has adapter_model-00001-of-00002.safetensors: save the tensors",
        ),
    ],
)
def test_what_is_there_in_place_of_the_tensors_is_named_and_not_opened(saved, name, told):
    (saved[1] / "adapter_model.safetensors").rename(saved[1] / name)
    with pytest.raises(AdapterFileError, match=re.escape(f"has no adapter_model.safetensors; {told}")):
        read_adapter(saved[1])


def test_a_write_that_fails_leaves_the_old_adapter_and_nothing_else(saved, monkeypatch):
    adapter, folder = saved
    before = read_adapter(folder).fingerprint

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(AdapterFileError, match="No space left"):
        patch.setattr(os, "fsync", full)
        write_adapter(adapter, folder)
    assert read_adapter(folder).fingerprint == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".mine")] == []


def test_cards_are_read_strictly():
    card = Card(base_id="b", base_fingerprint="sha256:1", parents=(Parent("x", "sha256:2", 0.5, "combine cat"),))
    assert Card.from_json(card.to_json()) == card
    values = json.loads(card.to_json())
    with pytest.raises(AdapterFileError, match=r"'base_di'; did you mean 'base_id'"):
        Card.from_json(json.dumps({**values, "base_di": "x"}))


def test_the_shelf(tiny, tmp_path):
    shelf = Shelf(tmp_path / "shelf")
    adapter = random_adapter(tiny.base, "law")
    shelf.save(adapter)
    assert shelf.names() == ["law"]
    assert shelf.load("law").fingerprint == adapter.fingerprint
    with pytest.raises(AdapterNotFoundError, match="did you mean 'law'"):
        shelf.load("lau")
    (shelf.root / "dropped").mkdir()
    (shelf.root / "dropped" / "adapter_config.json").touch()
    (shelf.root / "unfinished" / ".0001.tmp").mkdir(parents=True)
    assert [(entry.name, bool(entry.fault)) for entry in shelf.entries()] == [("dropped", True), ("law", False)]
    assert "`Shelf().save(read_adapter(folder))`" in shelf.entries()[0].fault
    shelf.remove("law")
    assert not shelf.has("law")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a" * 65])
def test_a_name_that_is_no_plain_folder_name_is_refused(name, tmp_path):
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        Shelf(tmp_path).load(name)
