"""What fits is chosen, what was set is kept, and what a run came to stands beside its plan."""

import dataclasses
import itertools
import json

import pytest
import torch

from kameleon import Execution, Recipe, Watch
from kameleon.errors import SettingError
from kameleon.ops import kernels
from kameleon.plan import (
    COMMON_NAMES,
    assumed_workload,
    calibrate,
    calibration,
    common_header,
    copied_bytes,
    make_plan,
    memory,
    planner,
    read_base_header,
    training_memory,
)
from kameleon.plan.calibration import Line, Rates
from kameleon.training import read_log

RECIPE = Recipe(rank=8)
# Small passes cost a little more, giving memory back too, and computing layers again a quarter.
RATES = Rates(Line(0.001, 1e-4), Line(0.004, 4e-4), 1e-5, 0.0, 0.0, Line(0, 1e-4), Line(0, 2e-4), 100, 1e-10)


@pytest.fixture
def llama():
    return common_header("Llama 3.2 1B")


@pytest.fixture
def plan(llama, monkeypatch):
    monkeypatch.setattr(planner, "calibrate", lambda *_: RATES)
    monkeypatch.setattr(memory, "can_run", lambda _: True)  # as where kernels unpack

    def make(memory_bytes=None, execution=Execution(), header=llama, **more):  # noqa: B008 (frozen)
        def work(watch, execution):
            return assumed_workload(512, 1000, RECIPE, execution)

        given = {"recipe": RECIPE, "watch": Watch(), "dtype": torch.bfloat16, **more}
        return make_plan(header, work, execution=execution, process_bytes=0, memory_bytes=memory_bytes, **given)

    return make


def test_without_a_budget_nothing_is_changed_and_cheaper_ways_are_told(plan):
    made = plan()
    assert made.chosen.execution == Execution(1024, 0)
    peaks = [made.chosen.memory.peak_bytes, *(one.memory.peak_bytes for one in made.cheaper)]
    assert len(peaks) > 2
    assert peaks == sorted(peaks, reverse=True)
    seconds = [made.chosen.seconds, *(one.seconds for one in made.cheaper)]
    assert seconds == sorted(seconds)


def test_of_what_fits_the_fastest_is_chosen_and_the_reason_told(plan):
    free = plan().chosen.memory.peak_bytes
    assert plan(2 * free).chosen.execution == Execution(1024, 0)
    made = plan(int(0.9 * free))
    assert made.chosen.memory.peak_bytes <= 0.9 * free
    assert not made.chosen.execution.checkpoint_layers
    assert made.chosen.execution.micro_batch_tokens < 1024
    assert "1024 tokens a pass, layers stored needs" in made.why[-1]
    assert plan(int(0.7 * free)).chosen.execution.checkpoint_layers


def test_what_was_set_is_kept(plan):
    free = plan(execution=Execution(micro_batch_tokens=1000)).chosen.memory.peak_bytes
    made = plan(int(0.95 * free), Execution(micro_batch_tokens=1000), watch=Watch(eval_rows=3))
    assert (made.chosen.watch, made.chosen.execution) == (Watch(eval_rows=3), Execution(1000, 1))
    assert plan(2 * free, Execution(checkpoint_layers=5)).chosen.execution.checkpoint_layers == 5


def test_a_run_that_goes_on_keeps_its_passes_also_where_they_are_as_by_default(plan):
    free = plan().chosen.memory.peak_bytes
    assert plan(int(0.9 * free)).chosen.execution.micro_batch_tokens < 1024
    assert plan(int(0.9 * free), keep_passes=True).chosen.execution.micro_batch_tokens == 1024


@pytest.mark.parametrize("share", [0.88, 0.8, 0.75])
def test_as_few_layers_are_computed_again_as_fit(plan, share):
    size = Execution(micro_batch_tokens=1000)
    made = plan(int(share * plan(execution=size).chosen.memory.peak_bytes), size)
    count = made.chosen.execution.checkpoint_layers
    assert 1 < count < 16
    assert f"1000 tokens a pass, {count} layer" in made.why[-1]
    fewer = plan(execution=dataclasses.replace(size, checkpoint_layers=count - 1)).chosen
    assert fewer.memory.peak_bytes > 0.95 * made.memory_bytes >= made.chosen.memory.peak_bytes
    assert fewer.seconds < made.chosen.seconds


def test_every_layer_computed_again_takes_less_memory_and_more_time(plan):
    made = [plan(execution=Execution(checkpoint_layers=count)).chosen for count in range(16)]
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(made))
    peaks = [one.memory.peak_bytes for one in made]
    assert peaks == sorted(peaks, reverse=True)
    every, more = (plan(execution=Execution(checkpoint_layers=count)).chosen for count in (16, 99))
    assert every == dataclasses.replace(more, execution=every.execution)
    assert every.memory.peak_bytes > made[15].memory.peak_bytes  # the last layer's gradient comes first


@pytest.mark.parametrize("rank", [4, 256])
def test_of_no_common_base_another_layer_computed_again_takes_more_memory(rank):
    """What the table's search for the fewest that fit relies on."""
    recipe = Recipe(rank=rank, rows_per_step=1)
    for header in map(common_header, COMMON_NAMES):
        watches = [Execution(checkpoint_layers=count) for count in range(header.config.num_layers)]
        work = assumed_workload(512, 1000, recipe, watches[0])
        made = [
            training_memory(header, recipe, one, work, dtype=torch.bfloat16, process_bytes=0).peak_bytes
            for one in watches
        ]
        assert made == sorted(made, reverse=True), header.name


def test_when_nothing_fits_the_least_that_does_is_named(plan):
    with pytest.raises(SettingError, match=r"0\.40 GB are not enough: the least .* is (\d\.\d\d) GB") as caught:
        plan(400_000_000)
    least = float(str(caught.value).split(" is ")[1].split(" ")[0]) * 1e9
    assert plan(int(1.01 * least)).chosen.memory.peak_bytes < 1.01 * least
    with pytest.raises(SettingError):
        plan(int(0.97 * least))


def test_a_folder_that_does_not_fit_is_packed_to_nf4_and_a_gguf_never(plan, llama):
    folder = dataclasses.replace(llama, tensors=memory_plain(llama), packed_file=False)
    made = plan(2_000_000_000, header=folder, may_quantize=True)
    assert made.chosen.quantize == "nf4"
    assert any("nf4: as it is stored the base needs at least" in reason for reason in made.why)
    assert made.disk_bytes["cache"] > 500e6
    assert made.chosen.memory.base_mapped < 0.3 * folder.size_bytes
    with pytest.raises(SettingError):
        plan(2_000_000_000, header=folder)
    assert plan(20_000_000_000, header=folder, may_quantize=True).chosen.quantize is None


def memory_plain(header):
    from kameleon.plan.header import stored_as

    return stored_as(header.config, "BF16")


def test_memory_grows_with_what_it_is_made_of(llama):
    def parts(recipe=RECIPE, execution=Execution(), rows=2):  # noqa: B008 (frozen)
        work = assumed_workload(512, 1000, dataclasses.replace(recipe, rows_per_step=rows), execution)
        return training_memory(llama, recipe, execution, work, dtype=torch.bfloat16, process_bytes=10**8)

    usual = parts()
    assert usual.peak_bytes == sum(vars(usual).values()) == usual.private_bytes + usual.base_mapped
    assert usual.base_mapped == llama.size_bytes
    assert parts(Recipe(rank=16)).optimiser == 2 * usual.optimiser == 4 * usual.adapters
    assert parts(Recipe(rank=8, layers=8)).activations_and_gradient < 0.7 * usual.activations_and_gradient
    assert parts(rows=1).activations_and_gradient < 0.6 * usual.activations_and_gradient


def test_layers_computed_again_free_their_inputs_for_the_gradient_in_a_step_of_one_pass(llama):
    def parts(again, rank=8, rows=2):
        recipe, watch = Recipe(rank=rank, rows_per_step=rows), Execution(checkpoint_layers=again)
        work = assumed_workload(512, 1000, recipe, watch)
        return training_memory(llama, recipe, watch, work, dtype=torch.bfloat16, process_bytes=10**8)

    one, several, wide = parts(16), parts(16, rows=8), parts(16, rank=256)
    assert one.activations_and_gradient < 0.4 * parts(0).activations_and_gradient
    assert several.activations_and_gradient == one.activations_and_gradient + one.adapters
    assert 0.4 * wide.adapters < wide.activations_and_gradient - one.activations_and_gradient < 0.9 * wide.adapters


def test_copies_of_the_base_are_what_the_products_make(tiny_folder, monkeypatch):
    header = read_base_header(str(tiny_folder))
    inner = sum(t.size_bytes for name, t in header.tensors.items() if name.endswith("_proj.weight"))
    joined = sum(
        t.size_bytes
        for name, t in header.tensors.items()
        if name.rsplit(".", 2)[1] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    )
    vocab = header.tensors["model.embed_tokens.weight"].size_bytes
    monkeypatch.setattr(memory, "can_multiply", lambda _: False)
    assert copied_bytes(header, torch.float32) == joined
    assert copied_bytes(header, torch.bfloat16) == (inner + vocab) // 2
    monkeypatch.setattr(memory, "can_multiply", lambda _: True)
    assert copied_bytes(header, torch.float32) == 0


def test_calibration_measures_every_kind_of_work_and_leaves_random_numbers_alone(tiny_folder):
    before = torch.random.get_rng_state()
    rates = calibrate(read_base_header(str(tiny_folder)), 4, "lora", "all-linear", torch.float32, 128)
    assert torch.random.get_rng_state().equal(before)
    measured = rates.forward(128), rates.both(128), rates.head_both(rates.head_rows), rates.parameter
    assert all(seconds > 0 for seconds in measured)  # which takes longer, a busy machine decides


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_what_is_timed_has_the_side_paths_of_the_recipe(tiny_folder, monkeypatch, variant):
    timed = []
    monkeypatch.setattr(calibration, "_layer_seconds", lambda decoder, sides, *_, **__: timed.append(sides) or 1.0)
    header, recipe = read_base_header(str(tiny_folder)), Recipe(rank=3, variant=variant)
    make_plan(
        header,
        lambda watch, execution: assumed_workload(16, 8, recipe, execution),
        recipe=recipe,
        watch=Watch(),
        execution=Execution(),
        process_bytes=0,
        dtype=torch.float32,
    )
    assert timed
    branches = [branch for sides in timed for branch in sides.sides(0, "qkv")[0].branches]
    assert {branch.magnitude is not None for branch in branches} == {variant == "dora"}


def test_a_run_stands_beside_its_plan_in_the_log_the_card_and_the_result(tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What comes after {i}?", "completion": f"{i + 1}"} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plans = []
    result = tiny.train(path, "x", recipe=Recipe(rank=2, epochs=1, rows_per_step=8), on_plan=plans.append)
    (made,) = plans
    assert result.predicted["peak_bytes"] == made.chosen.memory.peak_bytes
    assert result.predicted["seconds"] == pytest.approx(made.chosen.seconds, rel=0.01, abs=0.001)
    assert tiny.shelf.load("x").card.recipe["predicted"] == result.predicted
    assert tiny.shelf.load("x").card.recipe["peak_bytes"] == result.peak_bytes
    from kameleon.home import runs_dir

    assert read_log(runs_dir() / "x")[-1]["predicted"] == result.predicted


def test_a_run_is_given_settings_that_fit_or_none(tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}", "completion": "yes"}) + "\n" for i in range(24)))
    with pytest.raises(SettingError, match="are not enough"):
        tiny.train(path, "x", memory_bytes=10_000_000)
    assert not tiny.shelf.has("x")
    assert tiny.train(path, "x", recipe=Recipe(epochs=0.5), memory_bytes=10**11).steps == 3


@pytest.mark.skipif(kernels().level is not None, reason="about the reference path")
def test_the_reference_path_is_said_not_to_hold_to_the_plan(plan):
    assert "the reference path runs here" in plan().why[0]
