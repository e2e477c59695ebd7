"""The comparison end to end, at sizes that say nothing about speed: who takes part, what is written, do losses meet."""

import json
import math

import pytest
import torch
from tiny import PACKED_SIZES

from kameleon.bench import BenchSettings, Case, losses_agree, run_bench
from kameleon.bench.packed_bases import MIXES, write_packed_shape
from kameleon.bench.result import loss_gap

KEYS = {
    "tokens_per_s",
    "vs_peft",
    "vs_peft_compiled",
    "vs_trl",
    "gemm_floor_multiple",
    "peak_bytes",
    "peft_peak_bytes",
    "loss_gap",
}
TINY = {"threads": 1, "steps": 1, "rank": 4, "micro_batch_tokens": 40}


@pytest.fixture(scope="module")
def document(tiny_folder):
    """One run of two contenders and the floor; the rate is high so that the losses fall, and could part."""
    settings = BenchSettings(**TINY, compute="fp32", learning_rate=1e-2, loss_tokens=16)
    case = Case("chat", 3, 24, str(tiny_folder), shortest_tokens=8)
    return run_bench([case], "peft,gemm_floor", settings)


def test_the_losses_of_kameleon_and_peft_agree_over_twenty_steps(document):
    case = document["cases"]["chat"]
    loss = case["loss"]
    assert (loss["steps"], loss["rows"], loss["tokens"], loss["limit"]) == (20, 2, 16, 1e-4)
    assert len(loss["kameleon"]) == len(loss["peft"]) == 20
    assert loss["kameleon"][-1] < loss["kameleon"][0] - 0.3
    assert 0 < case["loss_gap"] < 1e-4
    assert losses_agree(document)


def test_a_case_has_every_key_and_null_for_those_that_did_not_take_part(document):
    case = document["cases"]["chat"]
    assert case.keys() >= KEYS
    assert case["vs_peft_compiled"] is case["vs_trl"] is None
    assert all(case[key] > 0 for key in KEYS - {"vs_peft_compiled", "vs_trl"})
    assert case["groups"][0].keys() == {"kameleon", "peft", "gemm_floor"}
    assert case["contenders"]["peft"]["kameleon_is"] == case["vs_peft"]
    assert json.loads(json.dumps(document)) == document


def test_in_bf16_the_losses_are_also_held_against_those_in_fp32(tiny_folder):
    settings = BenchSettings(**TINY, compute="bf16", loss_tokens=16, loss_steps=3)
    case = run_bench([Case("2x16", 2, 16, str(tiny_folder))], "peft", settings)["cases"]["2x16"]
    assert len(case["loss"]["peft_fp32"]) == 3
    assert case["contenders"].keys() == case["groups"][0].keys() == {"kameleon", "peft"}  # nobody times it
    gaps = case["loss_gap_to_fp32"]
    assert 0 < gaps["kameleon"] < 1e-2
    assert gaps["peft"] > 0


def test_without_another_type_there_is_no_gap_to_fp32(document):
    assert document["cases"]["chat"]["loss_gap_to_fp32"] == {"kameleon": None, "peft": None}


def test_real_tokens_are_counted_not_padding(document):
    (group,) = document["cases"]["chat"]["groups"]
    sizes = [len(row) for row in Case("chat", 3, 24, shortest_tokens=8).batch(3, 320)]
    assert len(set(sizes)) > 1
    assert group["kameleon"]["tokens"] == group["peft"]["tokens"] == [sum(sizes)]


def test_the_document_says_on_what_it_was_measured(document):
    machine = document["machine"]
    assert machine["cpu"] and machine["cores"] and machine["cpu_capability"]
    assert machine["versions"]["torch"] == torch.__version__
    assert (document["dtype"], document["threads"]) == ("float32", 1)
    assert document["compute"] == "fp32: asked for"
    assert document["settings"]["learning_rate"] == 1e-2


def test_a_gap_beyond_rounding_is_a_disagreement(document):
    case = document["cases"]["chat"]
    apart = {**case, "loss_gap": 2e-4}
    assert not losses_agree({"cases": {"chat": case, "other": apart}})
    assert losses_agree({"cases": {"chat": {**case, "loss_gap": None}}})


def test_a_packed_base_is_met_by_itself_unpacked_and_by_nf4(tmp_path):
    """Each trains on the form of the base that it can train on; who wants a plain base does not take part."""
    path = tmp_path / "packed.gguf"
    write_packed_shape(path, "llama", PACKED_SIZES, MIXES["Q4_K_M"])
    case = Case("packed", 1, 16, str(path), checkpoint=True, packed=True)
    settings = BenchSettings(**TINY, compute="fp32", loss_steps=0)
    (group,) = run_bench([case], "peft,kameleon_unpacked,peft_nf4", settings)["cases"]["packed"]["groups"]
    assert group.keys() == {"kameleon", "kameleon_unpacked", "peft_nf4"}
    packed, unpacked, nf4 = (group[name]["loss"][0] for name in group)
    assert packed == pytest.approx(unpacked, rel=1e-3)  # the same numbers, but for rounding to bf16
    assert packed != nf4  # random numbers of its own


@pytest.mark.parametrize("losses", [[1.0, math.nan, 1.0], [math.nan, 1.0, 1.0]])
def test_a_loss_that_is_not_a_number_agrees_with_none(losses):
    gap = loss_gap({"kameleon": losses, "peft": [1.0, 1.0, 1.0]})
    assert math.isnan(gap)
    assert not losses_agree({"cases": {"chat": {"loss_gap": gap, "loss": {"limit": 1e-3}}}})
