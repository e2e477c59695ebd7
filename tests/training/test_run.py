"""Training runs: the loss falls, the base stays, packing and resuming change nothing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny import reference_model

import kameleon
from kameleon import Execution, Recipe, Sampling, Watch
from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.adapters.proof import PROBE, probe_logits
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.data import pack
from kameleon.errors import (
    AdapterFileError,
    CheckpointError,
    DataError,
    NonFiniteLossError,
    RunInterruptedError,
    SettingError,
    TrainingError,
)
from kameleon.home import runs_dir
from kameleon.model.decoder import Layer
from kameleon.ops import linear_cross_entropy
from kameleon.training import derived_learning_rate, draw_loss_curve, read_log, target_modules
from kameleon.training.checkpoint import has_checkpoint
from kameleon.training.log import LOG_FILE, RunLog
from kameleon.training.losses import token_logprobs
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee, fresh_adapter

RECIPE = Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=3)


def write_rows(path, count=40):
    rows = [
        {"prompt": f"What comes after {i % 10}?", "completion": f"It is {i % 10 + 1}, row {i}."} for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def watched(tmp_path):
    """Rows to look at that `rows` does not have."""
    path = write_rows(tmp_path / "watched.jsonl", 56)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[40:]))
    return path


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


def gradients(loaded, recipe, packs):
    bank = Bank(loaded.base)
    bank.add(fresh_adapter(loaded.base, "x", recipe, kameleon.Adapter("x", {}, _card(loaded)).card))
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


def _card(loaded):
    from kameleon.adapters import Card

    return Card(base_id="tiny", base_fingerprint=loaded.base.fingerprint)


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
        bank.add(fresh_adapter(tiny.base, "x", RECIPE, _card(tiny)))
        trainee = Trainee(bank, "x", RECIPE)
        for _ in range(2):
            train_step(tiny.base, bank, [trainee], packs, learning_rates=[1e-2], checkpoint_layers=checkpoint_layers)[0]
        states.append(trainee.adamw.parameters.clone())
    assert all(torch.equal(states[0], state) for state in states[1:])


def test_layers_are_computed_again_from_the_first_trained_one_on(tiny, rows, monkeypatch):
    recipe, ran = replace(RECIPE, layers=2), []
    bank = Bank(tiny.base)
    bank.add(fresh_adapter(tiny.base, "x", recipe, _card(tiny)))
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
        bank.add(fresh_adapter(tiny.base, "x", RECIPE, _card(tiny)))
        trainee = Trainee(bank, "x", RECIPE)
        result = train_step(tiny.base, bank, [trainee], pack(examples, max_tokens, adapter=0), learning_rates=[1e-3])[0]
        moved.append((result.loss, result.grad_norm, result.trained_tokens))
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)


SCRIPT = """
import os, signal, sys, threading, torch, kameleon
from kameleon import Recipe, Watch
torch.set_num_threads(1)
base, rows, resume, end = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", int(sys.argv[4])
loaded = kameleon.load(base, dtype=torch.float32)
killer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL))  # somewhere in the step or its checkpoint
rows = loaded.read(rows)
loaded.train(rows.pick(range(38)), "run", held_out=rows.pick((38, 39)),
             recipe=Recipe(rank=4, rows_per_step=4, learning_rate=1e-2, epochs=12),
             watch=Watch(save_every_s=0.0, eval_every=5), resume=resume,
             on_step=lambda r: r.step == end and killer.start())
"""


def run_script(base, rows, home, mode, kill_at=0):
    """It kills itself, since from outside a slow machine may be too late."""
    environment = {**os.environ, "KAMELEON_HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, str(base), str(rows), mode, str(kill_at)]
    return subprocess.run(command, env=environment, check=False).returncode


def test_a_run_killed_at_any_moment_resumes_to_the_same_final_bits(tiny_folder, rows, tmp_path):
    assert run_script(tiny_folder, rows, tmp_path / "whole", "start") == 0
    killed = tmp_path / "killed"
    assert run_script(tiny_folder, rows, killed, "start", kill_at=17) == -signal.SIGKILL
    assert not (killed / "adapters" / "run").exists()
    assert run_script(tiny_folder, rows, killed, "resume", kill_at=60) == -signal.SIGKILL
    assert run_script(tiny_folder, rows, killed, "resume") == 0
    homes = killed, tmp_path / "whole"
    files = [Shelf(home / "adapters").path("run") / "adapter_model.safetensors" for home in homes]
    assert files[0].read_bytes() == files[1].read_bytes()
    keys = ("step", "loss", "grad_norm", "learning_rate")
    logs = [[{k: r[k] for k in keys} for r in read_log(home / "runs" / "run") if "loss" in r] for home in homes]
    assert logs[0] == logs[1]


def test_a_run_whose_adapter_could_not_be_kept_goes_on_from_its_checkpoint(tiny, rows, monkeypatch):
    def full(adapter):
        raise AdapterFileError("No space left on device")

    recipe, watch = replace(RECIPE, epochs=1), Watch(save_every_s=0.0)
    with monkeypatch.context() as patch, pytest.raises(AdapterFileError):
        patch.setattr(tiny.shelf, "save", full)
        tiny.train(rows, "count", recipe=recipe, watch=watch)
    steps = []
    tiny.train(rows, "count", recipe=recipe, watch=watch, resume=True, on_step=steps.append)
    assert not steps
    assert tiny.shelf.names() == ["count"]
    assert not has_checkpoint(runs_dir() / "count")


def test_ctrl_c_saves_and_says_how_to_go_on(tiny, rows):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it

    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError, match=r"after step 3 of 30.*--resume"):
        tiny.train(rows, "count", recipe=RECIPE, on_step=interrupt)
    with pytest.raises(TrainingError, match=r"unfinished run: --resume .*goes on.*--overwrite .*drops it"):
        tiny.train(rows, "count", recipe=RECIPE)
    steps = []
    tiny.train(rows, "count", recipe=RECIPE, resume=True, on_step=lambda r: steps.append(r.step))
    assert steps == list(range(4, 31))
    assert signal.getsignal(signal.SIGINT) is before


def test_two_runs_of_one_name_at_a_time_are_refused_and_the_first_goes_on(tiny, rows):
    def another(report):
        for more in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(TrainingError, match=r"another process trains in .*count"):
                tiny.train(rows, "count", recipe=replace(RECIPE, rank=2), **more)

    recipe = replace(RECIPE, epochs=0.2)
    result = tiny.train(rows, "count", recipe=recipe, on_step=another)
    assert len(read_log(runs_dir() / "count")) == result.steps + 1
    assert tiny.shelf.load("count").card.recipe["rank"] == 4


def test_dora_starts_as_the_base_learns_resumes_and_says_the_same_in_peft(tiny, rows, tmp_path):
    recipe = replace(RECIPE, variant="dora", epochs=1)
    plain, live = probe_logits(tiny.base, fresh_adapter(tiny.base, "x", recipe, _card(tiny)))
    assert torch.equal(plain, live)
    seen = []
    whole = tiny.train(rows, "whole", recipe=recipe, on_step=seen.append).adapter
    assert seen[-1].loss < 0.9 * seen[0].loss
    moved = [f.magnitude - weight_norms(tiny.base, name) for name, f in whole.modules.items()]
    assert all(change.abs().max() > 1e-4 for change in moved)

    def interrupt(report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "parts", recipe=recipe, on_step=interrupt)
    assert tiny.train(rows, "parts", recipe=recipe, resume=True).adapter.fingerprint == whole.fingerprint
    write_adapter(whole, tmp_path / "peft")
    _, ours = probe_logits(tiny.base, whole)
    tokens = torch.tensor([tiny.base.tokenizer.encode(PROBE, add_special_tokens=False)])
    with torch.inference_mode():
        theirs = PeftModel.from_pretrained(reference_model("llama tied"), tmp_path / "peft").eval()(tokens).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_resuming_another_run_is_refused_naming_the_difference(tiny, rows):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "count", recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(CheckpointError, match=r"rank: was 4, is 8"):
        tiny.train(rows, "count", recipe=replace(RECIPE, rank=8), resume=True)
    write_rows(rows, 44)
    with pytest.raises(CheckpointError, match="data: was"):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)


def test_resuming_with_other_held_out_rows_is_refused(tiny, rows, watched):
    with pytest.raises(RunInterruptedError):
        tiny.train(
            rows, "count", held_out=watched, recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT)
        )
    watched.write_text(watched.read_text().replace("row 44", "row 99"))
    with pytest.raises(CheckpointError, match=r"\(held_out: was '\w+', is '\w+'\)"):
        tiny.train(rows, "count", held_out=watched, recipe=RECIPE, resume=True)


def test_a_damaged_checkpoint_is_named(tiny, rows):
    with pytest.raises(RunInterruptedError):
        tiny.train(rows, "count", recipe=RECIPE, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))
    path = runs_dir() / "count" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot be read"):
        tiny.train(rows, "count", recipe=RECIPE, resume=True)


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_is_intact(tiny, rows, monkeypatch):
    real, calls = os.fsync, []

    def full_after_three(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with (
        monkeypatch.context() as patch,
        pytest.raises(CheckpointError, match=r"step 4 .*the one before it is intact.*No space left"),
    ):
        patch.setattr(os, "fsync", full_after_three)
        tiny.train(rows, "count", recipe=RECIPE, watch=Watch(save_every_s=0.0, eval_every=100))
    folder = runs_dir() / "count"
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        assert file.metadata()["updates"] == "3"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path):
    log = RunLog(tmp_path, 0)
    with (tmp_path / LOG_FILE).open() as readable:  # stands for a disk that takes no more, again when it is closed
        os.dup2(readable.fileno(), log._file.fileno())
    with pytest.raises(CheckpointError, match="cannot write the run's log"):
        log.write({"step": 1})
    log.close()


def test_a_loss_that_is_not_a_number_stops_the_run_with_advice(tiny, rows, monkeypatch):
    real = linear_cross_entropy
    monkeypatch.setattr("kameleon.training.losses.linear_cross_entropy", lambda *given: real(*given) * float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan.*learning rate 0.9.* too high"):
        tiny.train(rows, "count", recipe=replace(RECIPE, learning_rate=0.9, warmup=0))


def test_a_held_out_loss_that_is_not_a_number_is_no_best(tiny, rows, watched, monkeypatch):
    losses = iter([1.0, float("nan")])
    monkeypatch.setattr("kameleon.training.loop.held_out_loss", lambda *_: next(losses))
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
    for value in (-1, True):  # it was a switch once
        with pytest.raises(SettingError, match=f"checkpoint_layers is {value}; it must be a number of layers"):
            Execution(checkpoint_layers=value)


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
