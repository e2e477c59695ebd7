"""From words to modules, and the refusal of every layer whose side path would be dead or would merge to another."""

import pytest
import torch
from torch import nn
from torch_modules.models import SmallCnn, bert, gpt2, mixtral

from kameleon.errors import LoraError
from kameleon.torch_modules import LoraConfig, attach, layers


def names(model, **settings):
    return [name for name, _ in layers(attach(model, LoraConfig(**settings)))]


def test_all_linear_takes_every_linear_layer_but_the_output_head():
    assert names(gpt2()) == [
        f"transformer.h.{i}.{part}"
        for i in range(2)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]  # fmt: skip
    assert names(SmallCnn()) == ["head"]
    assert len(names(bert(), targets="all-linear")) == 2 * 6 + 1  # the pooler too


def test_experts_that_are_no_layers_are_left_out_by_name():
    left_out = ("model.layers.*.mlp.gate.weight", "model.layers.*.mlp.experts.gate_up_proj",
                "model.layers.*.mlp.experts.down_proj")  # fmt: skip
    with pytest.warns(UserWarning, match="leaves out what is no layer of its own") as told:
        found = names(mixtral())
    assert {name.rpartition(".")[2] for name in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert sorted(str(told[0].message).rpartition(": ")[2].split(", ")) == sorted(left_out)
    with pytest.raises(LoraError, match="'gate_up_proj' is a bare parameter and no layer"):
        attach(mixtral(), LoraConfig(targets=("gate_up_proj",)))


def test_names_fit_at_a_dot_and_globs_fit_whole_names():
    assert names(bert(), targets=["query", "layer.1.output.dense"]) == [
        "encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.query", "encoder.layer.1.output.dense"
    ]  # fmt: skip
    assert names(bert(), targets=("encoder.layer.0.*",)) == [
        f"encoder.layer.0.{part}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                     "intermediate.dense", "output.dense")
    ]  # fmt: skip


def test_ranks_and_alphas_by_pattern():
    config = LoraConfig(
        targets=("query", "key"), rank=4, alpha=8, rank_pattern={"query": 5}, alpha_pattern={"*.0.*": 10}
    )
    found = dict(layers(attach(bert(), config)))
    assert {name: (layer.rank, layer.scaling) for name, layer in found.items()} == {
        "encoder.layer.0.attention.self.query": (5, 10 / 5),
        "encoder.layer.0.attention.self.key": (4, 10 / 4),
        "encoder.layer.1.attention.self.query": (5, 8 / 5),
        "encoder.layer.1.attention.self.key": (4, 8 / 4),
    }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"targets": ("quer",)}, "'quer' matches no layer; this model has query"),
        ({"targets": ("q_proj",)}, "'q_proj' matches no layer; this model has word_embeddings, "),
        ({"targets": ("*.q_proj",)}, r"'\*.q_proj' matches no layer"),
        ({"targets": ("LayerNorm",)}, "LayerNorm; only linear, embedding and convolution"),
        ({"targets": ("query", "keys", "vals")}, "'keys' matches no layer.*'vals' matches no layer"),
        ({"targets": ("query",), "rank_pattern": {"key": 2}}, "rank_pattern 'key' matches none of the targets"),
        ({"targets": ("query",), "alpha_pattern": {"key": 2}}, "alpha_pattern 'key' matches none of the targets"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_nothing_changes(settings, told):
    model = bert()
    with pytest.raises(LoraError, match=told):
        attach(model, LoraConfig(**settings))
    assert not list(layers(model))
    assert all(p.requires_grad for p in model.parameters())


class DoublingLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def weight_normed():
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


def eight_bit():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    return layer


@pytest.mark.filterwarnings("ignore:.*Lazy modules.*")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.MultiheadAttention(4, 2), "MultiheadAttention, which never calls it"),
        (lambda: DoublingLinear(4, 4), "DoublingLinear, which does not compute as Linear does"),
        (weight_normed, "computed from others"),
        (eight_bit, "int8: load the model in a float type"),
        (lambda: nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
        (lambda: nn.LazyLinear(4), "no shape yet"),
        (lambda: nn.ConvTranspose1d(4, 4, 3), "matches no layer|only linear"),
        (lambda: nn.EmbeddingBag(4, 4), "only linear, embedding and convolution"),
    ],
)
def test_layers_whose_side_path_would_be_dead_or_merge_to_another_are_refused(make, told):
    model = nn.Sequential(make())
    target = "out_proj" if isinstance(model[0], nn.MultiheadAttention) else "0"
    with pytest.raises(LoraError, match=told):
        attach(model, LoraConfig(targets=(target,)))


def test_all_linear_passes_by_what_multihead_attention_never_calls():
    assert names(nn.Sequential(nn.MultiheadAttention(16, 2), nn.Linear(16, 4))) == ["1"]


def test_a_model_that_is_itself_a_layer_is_refused():
    with pytest.raises(LoraError, match=r"itself a Linear.*nn.Sequential"):
        attach(nn.Linear(4, 4), LoraConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0}, {"rank": 2.5}, {"rank": True}, {"rank_pattern": {"query": 0}}, {"alpha": 0}, {"alpha": -1},
        {"alpha": float("nan")}, {"alpha": float("inf")}, {"alpha": "8"}, {"alpha_pattern": {"query": 0}},
        {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": float("nan")}, {"targets": ()}, {"targets": ("",)},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(LoraError, match=next(iter(wrong))):
        LoraConfig(**wrong)
