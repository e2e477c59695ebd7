"""Spectra, resizing, extracting and comparing, each against the plain matrices."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from safetensors.torch import load_file, save_file
from tiny import save_base

import kameleon
from kameleon.adapters import LoraFactors
from kameleon.adapters.arithmetic import (
    combine,
    diff,
    effective_rank,
    extract,
    resize,
    spectrum,
    spectrum_of,
    total_error,
)
from kameleon.errors import AdapterMismatchError, SettingError
from kameleon.model import module_shapes, open_weights
from kameleon.settings import MOST_RANK, Recipe

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def adapter(tiny):
    return random_adapter(tiny.base, "one", rank=6)


def same_delta(got, expected):
    torch.testing.assert_close(got.delta(), expected.delta(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaling", [2.0, -0.5])
@pytest.mark.parametrize(("out_size", "in_size", "rank"), [(64, 96, 6), (96, 64, 6), (5, 7, 1), (4, 9, 8)])
def test_the_spectrum_is_that_of_the_whole_matrix(out_size, in_size, rank, scaling):
    torch.manual_seed(0)
    factors = LoraFactors(torch.randn(rank, in_size), torch.randn(out_size, rank), scaling * rank)
    delta = factors.delta().double()
    expected = torch.linalg.svdvals(delta)
    for found in (spectrum(factors), spectrum_of(delta)):
        count = min(len(found.values), len(expected))
        torch.testing.assert_close(found.values[:count], expected[:count], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close((found.left * found.values) @ found.right, delta, rtol=1e-5, atol=1e-5)
        assert found.true_rank == min(rank, out_size, in_size)


def test_effective_rank_counts_the_directions_that_hold_the_change(adapter):
    assert effective_rank(adapter, 1.0) == 6
    narrow = {}
    for name, f in adapter.modules.items():
        narrow[name] = replace(f, b=f.b * torch.tensor([30.0, 20.0, 0.1, 0.1, 0.1, 0.1]))
    assert effective_rank(replace(adapter, modules=narrow)) == 2
    dead = {name: replace(f, b=torch.zeros_like(f.b)) for name, f in adapter.modules.items()}
    assert effective_rank(replace(adapter, modules=dead)) == 0


def test_resizing_makes_the_least_error_and_reports_it(adapter):
    small, lost = resize(adapter, "small", rank=2)
    assert {f.rank for f in small.modules.values()} == {2}
    gone = whole = 0.0
    for name, factors in adapter.modules.items():
        delta = factors.delta().double()
        values = torch.linalg.svdvals(delta)
        error = (small.modules[name].delta() - delta).norm()
        torch.testing.assert_close(error, values[2:].norm(), rtol=1e-4, atol=1e-5)
        assert lost[name].error == pytest.approx(float(error / delta.norm()), rel=1e-4)
        assert lost[name].energy == pytest.approx(1 - lost[name].error ** 2)
        gone, whole = gone + float(error) ** 2, whole + float(delta.norm()) ** 2
    assert total_error(lost) == pytest.approx((gone / whole) ** 0.5, rel=1e-4)
    assert small.card.parents[0].fingerprint == adapter.fingerprint
    assert small.card.recipe == {"method": "resize", "rank": 2}


def test_a_larger_rank_changes_nothing_and_can_be_trained_on(adapter):
    large, lost = resize(adapter, "large", rank=9)
    assert total_error(lost) < 1e-6
    for name, factors in large.modules.items():
        same_delta(factors, adapter.modules[name])
        assert factors.rank == 9
        assert factors.a[6:].any(dim=1).all()
        assert not factors.b[:, 6:].any()


def test_a_rank_that_no_adapter_may_have_is_refused_before_the_work(adapter):
    for compute in (
        lambda: resize(adapter, "huge", rank=MOST_RANK + 1),
        lambda: combine([adapter], "huge", method="svd", rank=MOST_RANK + 1),
        lambda: Recipe(rank=MOST_RANK + 1),
    ):
        with pytest.raises(SettingError, match=r"rank is 4097.* 4096"):
            compute()


def test_a_budget_goes_where_it_keeps_most(adapter):
    strong = {name: replace(f, b=f.b * (10 if name == UP else 1)) for name, f in adapter.modules.items()}
    adapter = replace(adapter, modules=strong)
    budget = adapter.parameters // 3
    small, lost = resize(adapter, "small", budget=budget)
    assert budget - 400 < small.parameters <= budget
    assert small.modules[UP].rank == 6
    uniform, lost_uniform = resize(adapter, "uniform", rank=2)
    assert uniform.parameters <= budget + 400
    assert total_error(lost) < total_error(lost_uniform)
    tight, _ = resize(adapter, "tight", budget=160)
    assert tight.modules.keys() == {UP}
    with pytest.raises(SettingError, match="holds not one direction"):
        resize(adapter, "none", budget=10)
    for wrong in ({"rank": 2, "budget": 10}, {"rank": 0}, {"budget": 0}, {"rank": -1}, {}):
        with pytest.raises(SettingError, match="give one of them"):
            resize(adapter, "none", **wrong)


def test_diff_against_the_plain_matrices(tiny, adapter):
    other = random_adapter(tiny.base, "two", seed=9, rank=3)
    found = diff(adapter, other)[UP]
    a, b = adapter.modules[UP].delta().double(), other.modules[UP].delta().double()
    assert found.norm_a == pytest.approx(float(a.norm()), rel=1e-5)
    assert found.distance == pytest.approx(float((a - b).norm()), rel=1e-5)
    assert found.cosine == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())), abs=1e-6)
    assert len(found.out_angles) == len(found.in_angles) == 3


def test_diff_of_the_same_of_its_negative_and_of_what_shares_a_direction(adapter):
    negative = combine([adapter], "minus", weights=[-1.0])
    found = diff(adapter, negative)[UP]
    assert found.cosine == pytest.approx(-1)
    assert found.distance == pytest.approx(2 * found.norm_a)
    assert max(found.out_angles + found.in_angles) < 0.01
    one, two = torch.eye(8)[:2], torch.eye(8)[1:3]
    made = [replace(adapter, modules={UP: LoraFactors(a, a.T.contiguous(), 2.0)}) for a in (one, two)]
    assert diff(*made)[UP].in_angles == pytest.approx((0.0, 90.0), abs=1e-4)


def test_diff_names_what_only_one_has_and_refuses_other_sizes(adapter):
    part = replace(adapter, modules={UP: adapter.modules[UP]})
    lonely = diff(part, adapter)["model.layers.0.mlp.down_proj"]
    assert lonely.norm_a is None
    assert lonely.norm_b > 0
    assert lonely.cosine is None
    odd = replace(part, modules={UP: LoraFactors(torch.ones(2, 3), torch.ones(4, 2), 1.0)})
    with pytest.raises(AdapterMismatchError, match="other sizes"):
        diff(part, odd)


def tuned_by(tmp_path, adapter, also=()):
    """A full fine-tune whose change is what the adapter says."""
    model = save_base(tmp_path / "base")
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            model.get_submodule(name).weight += factors.delta()
        for name in also:
            model.get_parameter(name).add_(1.0)
    model.save_pretrained(tmp_path / "tuned")
    return kameleon.load(str(tmp_path / "base"), dtype=torch.float32).base, open_weights(tmp_path / "tuned")


def test_a_change_of_low_rank_is_extracted_exactly(tiny, tmp_path):
    taught = random_adapter(tiny.base, "taught", rank=3)
    base, tuned = tuned_by(tmp_path, taught)
    got, report = extract(base, tuned, "got", rank=3)
    for name, factors in taught.modules.items():
        same_delta(got.modules[name], factors)
        assert report.modules[name].energy > 1 - 1e-9
    assert report.left_out == {}
    assert got.card.base_fingerprint == base.fingerprint
    assert got.card.recipe["tuned_fingerprint"] == tuned.fingerprint()


def test_a_target_error_gives_each_module_its_own_rank(tiny, tmp_path):
    taught = random_adapter(tiny.base, "taught", rank=8)
    uneven = {n: replace(f, b=f.b * (0.5 ** torch.arange(8) if n == UP else 1)) for n, f in taught.modules.items()}
    base, tuned = tuned_by(tmp_path, replace(taught, modules=uneven))
    got, report = extract(base, tuned, "got", error=0.3)
    assert all(part.error <= 0.3 for part in report.modules.values())
    assert got.modules[UP].rank < min(f.rank for n, f in got.modules.items() if n != UP and n.endswith("up_proj"))
    _, report = extract(base, tuned, "got", error=0.0)
    assert max(part.error for part in report.modules.values()) < 1e-5
    for wrong in ({"rank": 2, "error": 0.1}, {"rank": 0}, {"rank": -1}, {"error": 1.0}, {}):
        with pytest.raises(SettingError, match="give a rank"):
            extract(base, tuned, "got", **wrong)


def test_what_no_adapter_can_hold_is_reported(tiny, tmp_path):
    part = random_adapter(tiny.base, "taught", rank=2)
    part = replace(part, modules={UP: part.modules[UP]})
    base, tuned = tuned_by(tmp_path, part, also=["model.norm.weight"])
    got, report = extract(base, tuned, "got", rank=4)
    assert got.modules.keys() == {UP}
    assert report.left_out.keys() == {"model.norm.weight"}
    assert report.left_out["model.norm.weight"] > 0.1


@pytest.mark.parametrize("who", ["base", "tuned"])
def test_a_file_may_hold_the_head_that_is_its_embedding_and_frequencies(who, tiny, tmp_path):
    """As older files do, and those of programs that write all that they find."""
    base, tuned = tuned_by(tmp_path, random_adapter(tiny.base, "taught", rank=2), also=["model.embed_tokens.weight"])
    path = tmp_path / who / "model.safetensors"
    tensors = load_file(path)
    more = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    more |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(tensors | more, path)
    base, tuned = kameleon.load(str(tmp_path / "base"), dtype=torch.float32).base, open_weights(tmp_path / "tuned")
    got, report = extract(base, tuned, "got", rank=2)
    assert got.modules.keys() == module_shapes(base.config).keys()
    assert report.left_out.keys() == {"model.embed_tokens.weight"}


def test_a_head_that_was_the_embedding_and_learned_by_itself_is_left_out(tiny, tmp_path):
    base, _ = tuned_by(tmp_path, random_adapter(tiny.base, "taught", rank=2))
    path = tmp_path / "tuned" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] * 1.5}, path)
    _, report = extract(base, open_weights(tmp_path / "tuned"), "got", rank=2)
    assert report.left_out == {"lm_head.weight": pytest.approx(0.5)}


@pytest.mark.parametrize("name", [f"{UP}.weight", "model.norm.weight"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_fine_tune_that_broke_is_refused_by_the_tensor(tmp_path, tiny, name, number):
    model = save_base(tmp_path / "base")
    with torch.no_grad():
        model.get_submodule(UP).weight.add_(0.1)
        model.get_parameter(name).view(-1)[0] = number
    model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(AdapterMismatchError, match=rf"tuned: {name} .* NaN or infinity"):
        extract(tiny.base, open_weights(tmp_path / "tuned"), "got", rank=2)


def test_a_model_that_is_no_fine_tune_is_refused(tmp_path, tiny, tiny_folder):
    with pytest.raises(AdapterMismatchError, match="nothing to extract"):
        extract(tiny.base, open_weights(tiny_folder), "got", rank=2)
    save_base(tmp_path / "other", "qwen2")
    with pytest.raises(AdapterMismatchError, match=r"the base has no .*bias"):
        extract(tiny.base, open_weights(tmp_path / "other"), "got", rank=2)
    assert UP in module_shapes(tiny.base.config)
