"""Cases, contenders, seats, settings and the floor, without any process."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import PACKED_SIZES, save_base, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode

import kameleon
from kameleon.bench import CASES, CONTENDERS, BenchSettings, Case, find_cases, find_contenders
from kameleon.bench import contenders as contenders_module
from kameleon.bench.bases import SHAPES, Shape, write_shape
from kameleon.bench.contenders import Memory, seat_together
from kameleon.bench.floor import Floor
from kameleon.bench.packed_bases import MIXES, write_packed_shape
from kameleon.bench.peers import padded
from kameleon.errors import SettingError, install_command
from kameleon.ops import Segments, native


def test_a_batch_is_the_same_in_every_process_and_another_in_every_step():
    chat = CASES["chat"]
    assert chat.batch(3, 1000) == chat.batch(3, 1000) != chat.batch(4, 1000)
    lengths = [len(row) for step in range(30) for row in chat.batch(step, 1000)]
    assert min(lengths) >= 40
    assert max(lengths) <= 300
    assert len(set(lengths)) > 50
    assert [len(row) for row in CASES["4x512"].batch(0, 1000)] == [512] * 4


def test_cases_are_found_by_name_or_by_size_and_take_another_base():
    assert find_cases("chat, 2x16", "a/b") == [replace(CASES["chat"], base="a/b"), Case("2x16", 2, 16, "a/b")]
    assert find_cases("0.5B-1x512", "a/b")[0].base in SHAPES
    for names, said in (("4x512,chta", "no case 'chta'"), ("", "no case given"), ("4x1", "one token"), ("0x8", "0x8")):
        with pytest.raises(SettingError, match=said):
            find_cases(names)


def test_kameleon_always_takes_part_and_unknown_contenders_are_named():
    assert [one.name for one in find_contenders("trl")] == ["kameleon", "trl"]
    with pytest.raises(SettingError, match="no contender axolotl; there are kameleon"):
        find_contenders("peft,axolotl")


def test_a_program_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(contenders_module, "find_spec", lambda name: None)
    assert CONTENDERS["trl"].missing() == f"trl is not installed ({install_command('bench')})"
    assert CONTENDERS["kameleon"].missing() is CONTENDERS["gemm_floor"].missing() is None
    monkeypatch.setattr(contenders_module, "find_spec", lambda name: name)
    monkeypatch.setattr(contenders_module.shutil, "which", lambda name: None)
    assert "C++ compiler" in CONTENDERS["peft_compiled"].missing()
    assert CONTENDERS["peft"].missing() is None


def test_those_that_do_not_fit_together_sit_in_groups_with_kameleon_in_each():
    contenders = find_contenders("gemm_floor,peft,peft_compiled,trl")
    peft = find_contenders("peft")
    needs = dict.fromkeys(("peft", "peft_compiled", "trl"), Memory(4, 8))
    needs |= {"kameleon": Memory(3, 5), "gemm_floor": Memory(1, 1)}

    def names(room, contenders=contenders):
        return [[one.name for one in group] for group in seat_together(contenders, needs, room)]

    assert names(None) == names(20) == [["kameleon", "gemm_floor", "peft", "peft_compiled", "trl"]]
    assert names(19) == [["kameleon", "gemm_floor", "peft", "peft_compiled"], ["kameleon", "trl"]]
    assert names(11) == [
        ["kameleon", "gemm_floor"],
        ["kameleon", "peft"],
        ["kameleon", "peft_compiled"],
        ["kameleon", "trl"],
    ]
    assert names(10) == [["kameleon", "gemm_floor"], ["peft"], ["peft_compiled"], ["trl"]]
    assert names(10, peft) == [["kameleon"], ["peft"]]
    assert names(11, peft) == [["kameleon", "peft"]]
    assert names(1, peft[:1]) == [["kameleon"]]


def test_needed_memory_is_of_the_order_that_was_measured():
    config = smollm2_config()
    fp32, bf16 = (
        {name: one.memory(CASES["4x512"], config, dtype).peak_bytes / 1e9 for name, one in CONTENDERS.items()}
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 6 < fp32["peft"] < 10
    assert 4 < bf16["peft"] < 7
    assert 3 < fp32["kameleon"] < 6
    assert fp32["gemm_floor"] < 1
    long = Case("1x8192", 1, 8192)
    whole, kept = (
        CONTENDERS["kameleon"].memory(case, config, torch.float32) for case in (long, replace(long, checkpoint=True))
    )
    assert kept.idle_bytes < kept.peak_bytes < whole.peak_bytes / 4


def smollm2_config():
    """SmolLM2-135M's sizes."""
    from kameleon.model.hf_config import config_from_hf

    return config_from_hf(
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        }
    )


def test_settings_out_of_range_are_all_named():
    with pytest.raises(SettingError, match=r"steps is 0.*rank is 0.*compute is 'int8'.*learning_rate is 0"):
        BenchSettings(steps=0, rank=0, compute="int8", learning_rate=0)
    assert BenchSettings(threads=3).used_threads == 3
    assert BenchSettings().used_threads >= 1


def test_padding_has_no_label_and_a_mask_only_where_there_is_any():
    batch = padded([[5, 6, 7], [8]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "attention_mask" not in padded([[5, 6], [7, 8]])


def test_the_floor_multiplies_every_frozen_weight_forward_and_back(tmp_path):
    save_base(tmp_path)
    config = kameleon.load(str(tmp_path), dtype=torch.float32).base.config
    floor = Floor(config, torch.float32, 40)
    with FlopCounterMode(display=False) as counter:
        floor.step(30)
    qkv, inner = 64 * (64 + 2 * 32), 64 * 64 + 3 * 64 * 96
    numbers = 2 * 3 * (qkv + inner) - qkv + 2 * 64 * 320  # layer 0's q, k and v need no gradient of their input
    assert counter.get_total_flops() == 2 * 30 * numbers


def test_a_shape_becomes_a_base_that_both_sides_open(tmp_path):
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shape = Shape("qwen2", {**sizes, "num_attention_heads": 2, "num_key_value_heads": 1})
    write_shape(tmp_path / "shape", shape, tiny_tokenizer())
    loaded = kameleon.load(str(tmp_path / "shape"), dtype=torch.float32)
    assert (loaded.base.config.family, loaded.base.config.num_layers) == ("qwen2", 1)
    assert json.loads((tmp_path / "shape" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.name for p in tmp_path.iterdir()} - {"kameleon-home"} == {"shape"}


@pytest.mark.parametrize(("family", "mix"), [("llama", "Q4_K_M"), ("qwen2", "Q4_0")])
def test_a_packed_shape_is_a_base_in_the_kinds_of_its_mix(tmp_path, family, mix):
    path = tmp_path / "packed.gguf"
    write_packed_shape(path, family, PACKED_SIZES, MIXES[mix])
    decoder = kameleon.load(str(path), dtype=torch.float32).base.decoder
    kinds = {name: decoder.layers[0].weight(name).kinds for name in ("qkv", "o", "gate_up", "down")}
    if native.available():
        assert (
            kinds
            == {
                "Q4_K_M": {
                    "qkv": ("Q4_K", "Q4_K", "Q6_K"),
                    "o": ("Q4_K",),
                    "gate_up": ("Q4_K", "Q4_K"),
                    "down": ("Q6_K",),
                },
                "Q4_0": {"qkv": ("Q4_0",) * 3, "o": ("Q4_0",), "gate_up": ("Q4_0",) * 2, "down": ("Q4_0",)},
            }[mix]
        )
        assert decoder.head.kinds == ("Q6_K",)
    tokens = torch.arange(9)
    logits = decoder.logits(decoder.hidden(tokens, Segments((9,))))
    assert logits.isfinite().all()
    assert 0.1 < logits.std() < 50
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".gguf"] == ["packed.gguf"]
