"""Names of modules and tensors are read into what they are written from."""

import pytest

from kameleon.weights import ModuleName


def test_a_module_of_a_layer_has_a_layer_a_member_and_a_kind():
    name = ModuleName.parse("model.layers.11.self_attn.q_proj")
    assert name == ModuleName(11, "self_attn.q_proj")
    assert (name.kind, name.in_layer) == ("q_proj", "11.self_attn.q_proj")
    assert (name.weight, name.bias) == (f"{name}.weight", f"{name}.bias")


def test_a_module_outside_of_the_layers_is_in_layer_minus_one():
    name = ModuleName.parse("model.embed_tokens")
    assert (name.layer, name.kind, name.in_layer) == (-1, "embed_tokens", "model.embed_tokens")


@pytest.mark.parametrize(
    "text",
    [
        "model.layers.0.mlp.up_proj",
        "model.layers.3.mlp.up_proj.weight",
        "language_model.layers.2.mlp.up_proj",
        "lm_head",
        "layers.",
        "",
        f"model.layers.{'9' * 5000}.mlp.up_proj",
    ],
)
def test_a_name_is_written_as_it_was_read(text):
    assert str(ModuleName.parse(text)) == text
