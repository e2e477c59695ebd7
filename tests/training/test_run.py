"""Training runs: the loss falls, the base stays, packing and resuming change nothing."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from training.counting import write_rows

import kameleon
from kameleon import Execution, Recipe, Sampling, Watch
from kameleon.errors import (
    DataError,
    NonFiniteLossError,
    RunInterruptedError,
    SettingError,
)
from kameleon.home import runs_dir
from kameleon.ops import linear_cross_entropy
from kameleon.training import derived_learning_rate, draw_loss_curve, read_log, target_modules

RECIPE = Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=3)


@pytest.mark.slow
def test_gemma3_says_what_is_known_and_learns_in_twenty_steps(tmp_path):
    loaded = kameleon.load("gemma3-270m")
    question = "Question: What is the capital of France?\nAnswer:"
    (said,) = loaded.generate([question], sampling=Sampling(max_tokens=8), raw=True)
    assert "Paris" in said.text
    rows = loaded.read(write_rows(tmp_path / "rows.jsonl", 80), raw=True)
    seen = []
    recipe = Recipe(rank=8, rows_per_step=4, epochs=1, learning_rate=5e-4)
    loaded.train(rows, "count", recipe=recipe, on_step=seen.append)
    assert len(seen) == 20
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert loaded.load_adapter("count").live
    (said,) = loaded.generate(["What comes after 4?"], ["count"], sampling=Sampling(max_tokens=8), raw=True)
    assert "5" in said.text


def test_training_teaches_and_leaves_the_base_alone(tiny, rows, watched):
    fingerprint = tiny.base.fingerprint
    before = [layer.weight("qkv").dense().clone() for layer in tiny.base.decoder.layers]
    seen = []
    result = tiny.train(rows, "count", held_out=watched, recipe=RECIPE, on_step=seen.append)
    assert seen[-1].step == result.steps == seen[-1].total_steps
    assert seen[-1].loss < seen[0].loss * 0.8
    assert seen[0].seconds_left > seen[-1].seconds_left == 0
    assert all(
        torch.equal(a, layer.weight("qkv").dense()) for a, layer in zip(before, tiny.base.decoder.layers, strict=True)
    )
    assert kameleon.load(str(tiny.base.files.path)).base.fingerprint == fingerprint
    assert tiny.shelf.names() == ["count"]
    assert tiny.load_adapter("count").live
    card = tiny.shelf.load("count").card
    assert card.base_fingerprint == fingerprint
    assert card.recipe["rank"] == 4
    assert card.data["rows"] == 40
    assert card.scores["eval_loss"] == result.best_loss


def test_a_loss_that_is_not_a_number_stops_the_run_with_advice(tiny, rows, monkeypatch):
    real = linear_cross_entropy
    monkeypatch.setattr("kameleon.training.losses.linear_cross_entropy", lambda *given: real(*given) * float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan.*learning rate 0.9.* too high"):
        tiny.train(rows, "count", recipe=replace(RECIPE, learning_rate=0.9, warmup=0))


def test_a_held_out_loss_that_is_not_a_number_is_no_best(tiny, rows, watched, monkeypatch):
    losses = iter([1.0, float("nan")])
    monkeypatch.setattr("kameleon.training.loop.held_out_loss", lambda *_, **__: next(losses))
    with pytest.raises(NonFiniteLossError, match=r"held-out rows is nan after step 2: .* 0.01 may be too high"):
        tiny.train(rows, "count", held_out=watched, recipe=RECIPE, watch=Watch(eval_every=1))
    assert tiny.shelf.names() == []


def test_all_masked_data_is_refused(tiny, tmp_path):
    path = tmp_path / "masked.jsonl"
    path.write_text(json.dumps({"prompt": "a" * 100, "completion": "b"}) + "\n")
    with pytest.raises(DataError, match="all labels are masked"):
        tiny.train(path, "count", recipe=replace(RECIPE, max_row_tokens=50))


def test_an_adapter_on_the_shelf_is_not_replaced_unasked(tiny, rows):
    tiny.train(rows, "count", recipe=replace(RECIPE, epochs=0.2))
    with pytest.raises(SettingError, match="on the shelf already"):
        tiny.train(rows, "count", recipe=RECIPE)
    tiny.train(rows, "count", recipe=replace(RECIPE, epochs=0.2), overwrite=True)


def test_patience_ends_a_run_and_keeps_the_best_look(tiny, rows, watched):
    recipe = replace(RECIPE, learning_rate=0.5, epochs=60)  # it jumps about, and never improves for long
    result = tiny.train(rows, "count", held_out=watched, recipe=recipe, watch=Watch(eval_every=1, patience=3))
    assert result.stopped_early
    assert result.steps == result.best_step + 3
    looks = {r["step"]: r["eval_loss"] for r in read_log(runs_dir() / "count") if "eval_loss" in r}
    assert min(looks.values()) == looks[result.best_step] == result.best_loss


def test_the_log_and_the_curve(tiny, rows):
    tiny.train(rows, "count", recipe=RECIPE)
    records = read_log(runs_dir() / "count")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 31))
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_s", "peak_bytes", "seconds"} <= records[0].keys()
    assert draw_loss_curve(runs_dir() / "count", "count").read_bytes()[:4] == b"\x89PNG"


def test_targets_and_layers(tiny):
    config = tiny.base.config
    assert len(target_modules(config, Recipe())) == 7 * config.num_layers
    some = target_modules(config, Recipe(targets="q_proj, v_proj", layers=1))
    assert some == ["model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj"]
    with pytest.raises(SettingError, match=r"unknown target w_proj; this base has q_proj"):
        target_modules(config, Recipe(targets="w_proj"))
    with pytest.raises(SettingError, match="this base has 3"):
        target_modules(config, Recipe(layers=4))
    assert derived_learning_rate(replace(config, hidden_size=4000)) < derived_learning_rate(config)


def test_a_faulty_recipe_names_every_fault():
    with pytest.raises(SettingError, match=r"rank is 0.*clip_norm is -1"):
        Recipe(rank=0, clip_norm=-1)
    with pytest.raises(SettingError, match=r"rank is 4097; .* from 1 to 4096.*alpha is 16777217; .* at most 16777216"):
        Recipe(rank=4097, alpha=4096**2 + 1)  # the adapter's file would be refused when it is read
    with pytest.raises(SettingError, match="patience is -1"):
        Watch(patience=-1)
    with pytest.raises(SettingError, match="checkpoint_layers is -1; it must be from 0"):
        Execution(checkpoint_layers=-1)
    with pytest.raises(SettingError, match=r"checkpoint_layers is True \(bool\); expected a whole number"):
        Execution(checkpoint_layers=True)  # it was a switch once


def test_training_in_bf16_follows_fp32(tiny_folder, rows):
    """The base computes in bf16; A, B and the optimiser stay fp32."""
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        loaded = kameleon.load(str(tiny_folder), dtype=dtype)
        seen = []
        result = loaded.train(rows, "count", recipe=RECIPE, overwrite=True, on_step=lambda r, s=seen: s.append(r.loss))
        assert all(f.a.dtype == f.b.dtype == torch.float32 for f in result.adapter.modules.values())
        losses[dtype] = seen
    assert losses[torch.bfloat16][0] == pytest.approx(losses[torch.float32][0], rel=0.01)
    assert losses[torch.bfloat16][-1] == pytest.approx(losses[torch.float32][-1], rel=0.1)
    assert losses[torch.bfloat16] != losses[torch.float32]


def test_the_card_keeps_the_system_prompt_that_the_rows_share_also_over_a_resumed_run(tiny, tmp_path):
    def begun(path, system, first=0):
        begin = [] if system is None else [{"role": "system", "content": system}]
        numbers = range(first, first + 12)
        talks = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}] for i in numbers]
        path.write_text("".join(json.dumps({"messages": [*begin, *talk]}) + "\n" for talk in talks))
        return path

    rows, watched = begun(tmp_path / "rows.jsonl", "You are a pirate."), begun(tmp_path / "watched.jsonl", None, 12)
    same = begun(tmp_path / "same.jsonl", "You are a pirate.", 12)

    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "pirate", held_out=watched, recipe=RECIPE, on_step=interrupt)
    result = tiny.train(rows, "pirate", held_out=watched, recipe=RECIPE, resume=True)
    assert result.adapter.card.system_prompt == "You are a pirate."
    assert tiny.shelf.load("pirate").card.system_prompt == tiny.bank.system_prompt("pirate") == "You are a pirate."
    # Held-out rows without a system message are looked at as the adapter will be used.
    assert tiny.train(rows, "same", held_out=same, recipe=RECIPE).best_loss == result.best_loss
    assert (
        tiny.train(watched, "none", held_out=rows, recipe=replace(RECIPE, epochs=1)).adapter.card.system_prompt is None
    )
