"""Combining adapters: the exact sum and its approximations, and agreement with PEFT's `add_weighted_adapter`."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from peft import PeftModel
from tiny import reference_model, save_base

import kameleon
from kameleon.adapters import LoraFactors, Parent
from kameleon.adapters.arithmetic import METHODS, combine
from kameleon.adapters.formats import write_adapter
from kameleon.errors import AdapterMismatchError, SettingError, WrongBaseError

ADAPTERS = {"one": {}, "two": {"alpha": 3.0}, "uneven": {}, "uneven-too": {"alpha": 5.0}, "few": {"alpha": 2.0}}
PRUNED = [method for method in METHODS if any(word in method for word in ("ties", "dare", "prune"))]


@pytest.fixture
def pair(tiny):
    """Two adapters of other scalings."""
    return random_adapter(tiny.base, "one", seed=1), random_adapter(tiny.base, "two", seed=2, alpha=3.0)


def deltas(adapter):
    return {name: factors.delta() for name, factors in adapter.modules.items()}


def weighted_sum(adapters, weights):
    return {
        name: sum(w * a.modules[name].delta() for a, w in zip(adapters, weights, strict=True))
        for name in adapters[0].modules
    }


def assert_same(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(got[name], expected[name], rtol=tolerance, atol=tolerance), name


def test_cat_is_the_exact_sum_and_svd_of_full_rank_too(pair):
    expected = weighted_sum(pair, (0.7, -0.4))
    joined = combine(pair, "both", weights=(0.7, -0.4), method="cat")
    assert {f.rank for f in joined.modules.values()} == {8}
    assert_same(deltas(joined), expected)
    assert_same(deltas(combine(pair, "both", weights=(0.7, -0.4), method="svd", rank=8)), expected)


def test_svd_is_as_near_as_any_matrix_of_its_rank_can_be(pair):
    exact, got = weighted_sum(pair, (1, 1)), deltas(combine(pair, "both", method="svd", rank=3))
    for name, delta in exact.items():
        least = torch.linalg.svdvals(delta.double())[3:].norm()
        torch.testing.assert_close((got[name].double() - delta).norm(), least, rtol=1e-5, atol=1e-6)


def test_the_card_names_the_parents_and_how_they_were_combined(pair):
    made = combine(pair, "both", weights=(0.5, 2.0), method="dare_linear", density=0.5, seed=7)
    assert made.card.parents == (
        Parent("one", pair[0].fingerprint, 0.5, "combine dare_linear"),
        Parent("two", pair[1].fingerprint, 2.0, "combine dare_linear"),
    )
    assert made.card.recipe == {"method": "dare_linear", "density": 0.5, "seed": 7}
    assert made.card.base_fingerprint == pair[0].card.base_fingerprint
    assert all(factors.scaling == 1 for factors in made.modules.values())


def test_parents_stay_as_they_were(pair):
    before = [adapter.fingerprint for adapter in pair]
    for method in METHODS:
        combine(pair, "both", method=method, density=0.5 if method in PRUNED else None)
    assert [replace(adapter).fingerprint for adapter in pair] == before


COMPANIES = {
    "two scalings": {"one": 0.7, "two": 0.4},
    "one is subtracted": {"one": 1.5, "two": -0.8},
    "alone": {"one": 0.7},
    "alone and subtracted": {"uneven": -0.5},
    "ranks and alphas by pattern": {"uneven": 0.7, "uneven-too": 1.2},
    "three, of which one has few modules": {"one": 1.0, "few": 2.0, "two": -0.5},
    "other ranks": {"one": 1.0, "uneven": 0.5},
}


@pytest.fixture(scope="module")
def in_company(tmp_path_factory):
    """Adapters by name, and a PEFT model that holds them all."""
    save_base(tmp_path_factory.mktemp("bases") / "tiny")
    base = kameleon.load(str(next(tmp_path_factory.getbasetemp().glob("bases*/tiny"))), dtype=torch.float32).base
    made = {name: random_adapter(base, name, seed=i, **settings) for i, (name, settings) in enumerate(ADAPTERS.items())}
    for name in ("uneven", "uneven-too"):
        sizes = {module: 2 + i % 3 for i, module in enumerate(made[name].modules)}
        parts = {m: replace(f, a=f.a[: sizes[m]], b=f.b[:, : sizes[m]]) for m, f in made[name].modules.items()}
        made[name] = replace(made[name], modules={m: replace(f, alpha=f.alpha + f.rank) for m, f in parts.items()})
    made["few"] = replace(made["few"], modules=dict(list(made["few"].modules.items())[2:5]))
    folder = tmp_path_factory.mktemp("peft")
    for name, adapter in made.items():
        write_adapter(adapter, folder / name)
    model = PeftModel.from_pretrained(reference_model("llama tied"), folder / "one", adapter_name="one")
    for name in list(made)[1:]:
        model.load_adapter(folder / name, name)
    return made, model


@pytest.mark.filterwarnings("ignore:.* is the only adapter:UserWarning")
@pytest.mark.parametrize(
    ("method", "company"),
    [(m, c) for m in METHODS for c in COMPANIES if c != "other ranks" or m == "cat" or m.endswith("svd")],
)
def test_as_peft_combines(method, company, in_company, monkeypatch):
    """Dropping at random is made the same in both: each number is kept or not by its place."""

    def by_place(shares, generator=None):
        return (torch.arange(shares.numel()) * 7 % 10 < 10 * float(shares.flatten()[0])).view(shares.shape).float()

    monkeypatch.setattr(torch, "bernoulli", by_place)
    made, model = in_company
    weights = COMPANIES[company]
    density = 0.6 if method in PRUNED else None
    model.add_weighted_adapter(
        list(weights), list(weights.values()), "both", combination_type=method, density=density, svd_full_matrices=False
    )
    expected = {
        name.removeprefix("base_model.model."): module.get_delta_weight("both")
        for name, module in model.named_modules()
        if "both" in getattr(module, "lora_A", ())
    }
    model.delete_adapter("both")
    parts = [made[name] for name in weights]
    got = deltas(combine(parts, "both", weights=list(weights.values()), method=method, density=density))
    assert_same(got, expected, 3e-5)


def test_one_adapter_alone_is_multiplied_and_nothing_is_said_in_vain(pair):
    with pytest.warns(UserWarning, match="'one' is the only adapter.*ties and density have no effect"):
        alone = combine(pair[:1], "x", weights=[2.0], method="ties", density=0.5)
    assert_same(deltas(alone), {name: 2 * delta for name, delta in deltas(pair[0]).items()})
    assert alone.card.recipe == {"method": "linear"}
    with pytest.raises(SettingError, match="nothing to combine 'one' with; for another rank"):
        combine(pair[:1], "x", method="svd", rank=2)


def test_dare_keeps_its_share_repeats_with_its_seed_and_is_right_on_average(pair):
    pair = [replace(adapter, modules=dict(list(adapter.modules.items())[:2])) for adapter in pair]
    half = {"weights": (1.0, 0.0), "method": "dare_linear", "density": 0.3}
    one = combine(pair, "x", **half, seed=1)
    kept = torch.cat([f.a.flatten() for f in one.modules.values()]).count_nonzero()
    assert 0.2 < float(kept) / sum(f.a.numel() for f in one.modules.values()) < 0.4
    assert one.fingerprint == combine(pair, "x", **half, seed=1).fingerprint
    assert one.fingerprint != combine(pair, "x", **half, seed=2).fingerprint
    exact = combine(pair, "x", method="linear")
    draws = [combine(pair, "x", method="dare_linear", density=0.5, seed=s) for s in range(200)]
    for name, factors in exact.modules.items():
        mean = torch.stack([draw.modules[name].a for draw in draws]).mean(0)
        assert (mean - factors.a).norm() < 0.15 * factors.a.norm()


def test_a_module_that_only_some_have_is_made_of_those(pair):
    part = replace(pair[1], modules=dict(list(pair[1].modules.items())[:3]))
    made = combine([pair[0], part], "both", weights=(2.0, 1.0))
    last = list(pair[0].modules)[-1]
    torch.testing.assert_close(made.modules[last].delta(), 2 * pair[0].modules[last].delta())
    assert made.modules.keys() == pair[0].modules.keys()


def test_ranks_that_linear_cannot_take_are_named_and_what_can(pair, tiny):
    wider = random_adapter(tiny.base, "wide", rank=6)
    with pytest.raises(AdapterMismatchError, match=r"has ranks 4, 6.*cat and svd take any ranks"):
        combine([pair[0], wider], "both", method="linear")
    assert {f.rank for f in combine([pair[0], wider], "both", method="svd").modules.values()} == {6}
    other = {name: LoraFactors(torch.ones(4, 7), torch.ones(5, 4), 1.0) for name in wider.modules}
    with pytest.raises(AdapterMismatchError, match="5 × 7"):
        combine([pair[0], replace(wider, modules=other)], "both")


def test_weights_that_make_numbers_infinite_are_refused(pair):
    for method in ("cat", "linear"):
        with pytest.raises(SettingError, match="infinite"):
            combine(pair, "both", weights=[1e39, 1.0], method=method)


def test_adapters_of_different_bases_are_refused_unless_allowed_by_name(pair):
    stranger = replace(pair[1], card=replace(pair[1].card, base_fingerprint="sha256:0"))
    with pytest.raises(WrongBaseError, match="different bases"):
        combine([pair[0], stranger], "both")
    assert combine([pair[0], stranger], "both", any_base=True).modules


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "average"}, "'average'; it must be one of linear, cat"),
        ({"method": "ties"}, "density is None with ties"),
        ({"method": "ties", "density": 0.0}, "density is 0.0"),
        ({"method": "cat", "density": 0.5}, "left out"),
        ({"method": "linear", "rank": 4}, "only svd methods"),
        ({"weights": (1.0,)}, "2 adapters and 1 weights"),
        ({"weights": (1.0, float("nan"))}, "must be finite"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(pair, settings, told):
    with pytest.raises(SettingError, match=told):
        combine(pair, "both", **settings)
