"""LoRA on models that nobody here wrote."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from kameleon.errors import LoraError
from kameleon.lora import (
    LoraConfig,
    attach,
    count,
    detach,
    layers,
    load_lora_state_dict,
    lora_state_dict,
    merge,
    unmerge,
)


class SmallCnn(nn.Module):
    """In the manner of torchvision: strided, dilated and grouped convolutions, norms, a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4, padding_mode="reflect")
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.grouped(self.depthwise(x)))
        return self.head(x.mean((-2, -1)))


def bert():
    return BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                intermediate_size=48, max_position_embeddings=32)).eval()  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32)).eval()


TOKENS = torch.arange(24).view(2, 12) % 50
PICTURES = torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 8, 8)


def bert_output(model):
    got = model(TOKENS)
    return torch.cat([got.last_hidden_state.flatten(), got.pooler_output.flatten()])


MODELS = {
    "cnn": (SmallCnn, ("stem", "depthwise", "grouped", "head"), lambda m: m(PICTURES)),
    "bert": (bert, ("all-linear", "word_embeddings"), bert_output),
    "gpt2": (gpt2, ("all-linear", "wpe"), lambda m: m(TOKENS).logits),
    "gpt2 tied embedding": (gpt2, ("wte",), lambda m: m(TOKENS).logits),
}  # fmt: skip


def disturb(model):
    """Both factors random, as after training."""
    torch.manual_seed(1)
    for _, layer in layers(model):
        nn.init.normal_(layer.lora_a, std=0.1)
        nn.init.normal_(layer.lora_b, std=0.1)


@pytest.fixture(params=MODELS)
def subject(request):
    torch.manual_seed(0)
    make, targets, run = MODELS[request.param]
    model = make().eval()
    return model, LoraConfig(targets=targets, rank=3, alpha=6.0), lambda m: run(m).detach()


def test_a_fresh_side_path_changes_nothing_to_the_bit(subject):
    model, config, run = subject
    before = run(model)
    attach(model, config)
    assert torch.equal(run(model), before)
    assert torch.equal(run(detach(model)), before)
    assert not list(layers(model))


def test_only_side_paths_train_and_the_base_stays(subject):
    model, config, _ = subject
    frozen = {name: p.detach().clone() for name, p in model.named_parameters()}
    attach(model, config)
    disturb(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = lora_state_dict(model)
    for layer in (layer for _, layer in layers(model)):
        assert layer.lora_a.requires_grad
        assert layer.lora_b.requires_grad
    run = next(run for make, targets, run in MODELS.values() if targets == config.targets)
    output = run(model).flatten()
    (output * torch.arange(len(output)).cos()).sum().backward()
    optimizer.step()
    after = lora_state_dict(model)
    assert all(not torch.equal(before[key], after[key]) for key in before if key.endswith("lora_b"))
    detach(model)
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters())


def test_merge_and_unmerge(subject):
    model, config, run = subject
    plain = run(model)
    attach(model, config)
    disturb(model)
    live = run(model)
    assert not torch.allclose(live, plain, atol=1e-3)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = merge(model, run)
    torch.testing.assert_close(run(model), live, rtol=1e-4, atol=1e-5)
    assert report.modules == len(list(layers(model)))
    assert report.output_gap_max == pytest.approx(float((run(model) - live).abs().max()))
    assert report.rounding_max < 1e-6
    once = run(model)
    merge(model)
    assert torch.equal(run(model), once)
    unmerge(model)
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters())
    assert torch.equal(run(model), live)


def test_detaching_a_merged_model_keeps_the_change():
    torch.manual_seed(0)
    model = attach(SmallCnn().eval(), LoraConfig(targets=("stem", "head")))
    disturb(model)
    x = torch.randn(1, 3, 8, 8)
    live = model(x)
    merge(model)
    detach(model)
    torch.testing.assert_close(model(x), live, rtol=1e-4, atol=1e-5)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_a_tied_weight_is_never_changed_behind_its_twin():
    model = gpt2()
    head_only = model.lm_head.weight.detach().clone()
    attach(model, LoraConfig(targets=("wte",)))
    disturb(model)
    merge(model)
    assert torch.equal(model.lm_head.weight, head_only)
    with pytest.raises(LoraError, match=r"wte shared its weight with lm_head.weight.*untie"):
        detach(model)
    unmerge(model)
    assert model.transformer.wte.base.weight is model.lm_head.weight
    detach(model)


def test_bf16_reports_the_rounding_that_merging_costs():
    model = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    attach(model, LoraConfig(targets=("0",)))
    disturb(model)
    assert model(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert 1e-5 < merge(model).rounding_max < 1e-2


def test_all_linear_leaves_the_output_head_alone():
    names = [name for name, _ in layers(attach(gpt2(), LoraConfig()))]
    assert len(names) == 8
    assert not any("lm_head" in name for name in names)


def test_targets_by_name_glob_and_rank_by_pattern():
    model = attach(bert(), LoraConfig(targets=("query", "*.layer.1.*.dense"), rank_pattern={"query": 5}))
    ranks = {name: layer.rank for name, layer in layers(model)}
    assert {name for name, rank in ranks.items() if rank == 5} == {n for n in ranks if n.endswith("query")}
    assert {n for n in ranks if n.endswith("dense")} == {
        f"encoder.layer.1.{m}.dense" for m in ("attention.output", "intermediate", "output")
    }


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LoraConfig(targets=("quer",)), r"'quer' matches no module; this model has query"),
        (LoraConfig(targets=("LayerNorm",)), "LayerNorm; only linear, embedding and convolution"),
        (LoraConfig(targets=("query",), rank_pattern={"key": 2}), "rank_pattern 'key' matches none"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_nothing_changes(config, told):
    model = bert()
    with pytest.raises(LoraError, match=told):
        attach(model, config)
    assert not list(layers(model))
    assert all(p.requires_grad for p in model.parameters())


def test_layers_that_would_be_bypassed_are_refused():
    model = nn.Sequential(nn.MultiheadAttention(16, 2), nn.Linear(16, 4))
    with pytest.raises(LoraError, match="would never be used"):
        attach(model, LoraConfig(targets=("out_proj",)))
    assert [name for name, _ in layers(attach(model, LoraConfig()))] == ["1"]


def test_attaching_twice_is_refused():
    model = attach(SmallCnn(), LoraConfig(targets=("head",)))
    with pytest.raises(LoraError, match="already"):
        attach(model, LoraConfig(targets=("stem",)))


def test_a_module_that_stands_in_two_places_is_wrapped_in_both():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared})
    attach(model, LoraConfig(targets=("a",)))
    assert model["a"] is model["b"]


def test_counts():
    layer = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    counted = count(attach(layer, LoraConfig(targets=("0",), rank=4)))
    assert (counted.trainable, counted.frozen) == (8000, 1_000_000)
    assert counted.share == pytest.approx(8000 / 1_008_000)


def test_numbers_travel_by_state_dict_and_every_key_must_match():
    source, other = (attach(SmallCnn(), LoraConfig(targets=("stem", "head"))) for _ in range(2))
    disturb(source)
    state = lora_state_dict(source)
    load_lora_state_dict(other, state)
    assert all(torch.equal(state[key], value) for key, value in lora_state_dict(other).items())
    renamed = {key.replace("stem", "stam"): value for key, value in state.items()}
    with pytest.raises(LoraError, match=r"stam.lora_a has no place.*stem.lora_a is missing"):
        load_lora_state_dict(other, renamed)


def test_a_deep_copy_is_independent():
    model = attach(SmallCnn(), LoraConfig(targets=("head",)))
    twin = copy.deepcopy(model)
    disturb(model)
    assert not twin.head.lora_b.any()


def test_dropout_only_in_training_and_only_on_the_side_path():
    model = nn.Sequential(nn.Linear(16, 16))
    attach(model, LoraConfig(targets=("0",), dropout=0.5))
    x = torch.randn(4, 16)
    assert torch.equal(model.train()(x), model[0].base(x))
    disturb(model)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"rank": 2.5}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": "query"}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(LoraError, match=next(iter(wrong))):
        LoraConfig(**wrong)


@given(
    in_size=st.integers(1, 4), out_size=st.integers(1, 4), groups=st.integers(1, 3), rank=st.integers(1, 5),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), dilation=st.integers(1, 2), axes=st.integers(1, 3),
)  # fmt: skip
def test_any_convolution_merges_to_what_it_computes_live(
    in_size, out_size, groups, rank, kernel, stride, dilation, axes
):
    torch.manual_seed(0)
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    model = nn.Sequential(
        make(in_size * groups, out_size * groups, kernel, stride=stride, padding=1, dilation=dilation, groups=groups)
    )
    attach(model, LoraConfig(targets=("0",), rank=rank))
    disturb(model)
    x = torch.randn(2, in_size * groups, *([6] * axes))
    live = model(x)
    merge(model)
    torch.testing.assert_close(model(x), live, rtol=1e-4, atol=1e-5)


def peft_twin(model, targets, rslora):
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    config = PeftConfig(r=3, lora_alpha=6, target_modules=list(targets), use_rslora=rslora)
    return get_peft_model(copy.deepcopy(model), config)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("make", "targets", "run"),
    [
        (bert, ("query", "dense", "word_embeddings"), bert_output),
        (gpt2, ("c_attn", "c_proj"), lambda m: m(TOKENS).logits),
        (SmallCnn, ("stem", "head"), lambda m: m(PICTURES)),
    ],
    ids=["bert", "gpt2", "cnn"],
)
@pytest.mark.filterwarnings("ignore")
def test_the_same_numbers_give_what_peft_gives(make, targets, run, rslora):
    torch.manual_seed(0)
    model = make().eval()
    theirs = peft_twin(model, targets, rslora).eval()
    ours = attach(model, LoraConfig(targets=targets, rank=3, alpha=6.0, rslora=rslora))
    disturb(ours)
    with torch.no_grad():
        for name, layer in layers(ours):
            module = theirs.base_model.model.get_submodule(name)
            embedding = "default" in getattr(module, "lora_embedding_A", {})
            if embedding:
                module.lora_embedding_A["default"].copy_(layer.lora_a)
                module.lora_embedding_B["default"].copy_(layer.lora_b)
            else:
                module.lora_A["default"].weight.copy_(layer.lora_a)
                module.lora_B["default"].weight.copy_(layer.lora_b.view(module.lora_B["default"].weight.shape))
        torch.testing.assert_close(run(ours), run(theirs), rtol=1e-4, atol=1e-5)
