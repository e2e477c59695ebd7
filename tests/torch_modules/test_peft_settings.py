"""The settings of PEFT's config: each of them is applied, without effect, or refused by name."""

from dataclasses import fields

import pytest
from peft import LoraConfig

from kameleon.errors import LoraError
from kameleon.torch_modules import expressions
from kameleon.torch_modules.peft_settings import APPLIED, HARMLESS, WITHOUT_EFFECT, PeftSettings

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def test_every_setting_of_the_installed_peft_is_known():
    """A new one must be put in one of the three lists: it is applied, has no effect, or is refused by name."""
    assert {field.name for field in fields(LoraConfig)} <= {*APPLIED, *WITHOUT_EFFECT, *HARMLESS}
    PeftSettings({**LoraConfig().to_dict(), "peft_type": "LORA"})


@pytest.mark.parametrize("key", [*HARMLESS, "of_a_later_version"])
def test_what_changes_the_result_is_refused_by_name(key):
    PeftSettings({**PLAIN, key: None})
    PeftSettings({**PLAIN, key: ["x"]}, applied=[key])
    with pytest.raises(LoraError, match=rf"not applied here: {key} = \['x'\]"):
        PeftSettings({**PLAIN, key: ["x"]})


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"r": 0}, "r is 0; expected a number above 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"rank_pattern": [4]}, r"rank_pattern is '\[4\]'"),
        ({"alpha_pattern": {"q": True}}, "alpha_pattern of 'q' is True"),
        ({"alpha_pattern": {"(": 3}}, "is no regular expression"),
        ({"rank_pattern": {"(a{900}){900}": 3}}, "repeats too much"),
        ({"target_modules": {"q": 1}}, "target_modules is .*; expected a list of names"),
        ({"layers_to_transform": "all"}, "layers_to_transform is 'all'"),
    ],
)
def test_what_cannot_be_meant_is_refused(config, told):
    with pytest.raises(LoraError, match=told):
        PeftSettings({**PLAIN, **config})


def test_an_expression_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr(expressions, "_TIME_S", 0.02)
    settings = PeftSettings({**PLAIN, "alpha_pattern": {r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)\7\1[^a-z]": 3}})
    with pytest.raises(LoraError, match="takes too long to be matched"):
        settings.scaling("model.layers.10.self_attn.q_proj")


def test_expressions_that_python_matches_slowly_are_matched():
    repeated = (
        r"(?:.*?(?:vision|language).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)"
    )
    settings = PeftSettings({**PLAIN, "alpha_pattern": {r"(\w*)*x": 3}, "target_modules": repeated})
    assert settings.scaling("model.layers.0.mlp.up_proj") == 2
    assert settings.targets("model.language_model.layers.0.self_attn.q_proj")
    assert not settings.targets("model.layers.0.self_attn.q_proj")
