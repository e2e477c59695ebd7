"""Any patterns and targets: the same side paths, with the same scaling, in PEFT and in both readers of its files."""

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from kameleon.adapters.formats import read_adapter
from kameleon.errors import AdapterFileError, LoraError
from kameleon.torch_modules import LoraConfig as OurConfig
from kameleon.torch_modules import attach, layers, load_peft, save_peft
from kameleon.torch_modules.peft_settings import WITHOUT_EFFECT

pytestmark = pytest.mark.filterwarnings("ignore")  # what PEFT says of targets that it does not find

EXPRESSIONS = (
    *(
        "lin",
        "lin.",
        "lins",
        "in",
        "l[a-z]n",
        ".*lin",
        "^lin",
        "lin|out",
        "out)|(lin",
        "attn.lin",
        "attn.*",
        "(?:x|attn)",
    ),
    *("net.layers.1.lin", r"layers\.[02]\..*", r".*\.\d\.out", "layers.1.out", "net.layers", r"net\.attn\.(lin|out)"),
)
numbers = st.integers(1, 9)
patterns = st.dictionaries(st.sampled_from(EXPRESSIONS), numbers, max_size=3)
names = st.lists(st.sampled_from(["lin", "lins", "out", "attn.out", "1.lin", "net.layers.2.out", "absent"]), max_size=3)
chosen = names | st.sampled_from([r".*lin", r"net\.layers\.[01]\.(lin|out)", ".*(attn|layers).*"])
configurations = st.fixed_dictionaries(
    {
        "r": numbers,
        "lora_alpha": numbers,
        "use_rslora": st.booleans(),
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": chosen,
        "exclude_modules": st.none() | chosen,
    },
    optional={
        "layers_to_transform": st.sampled_from([0, [0, 2], [1], []]),
        "layers_pattern": st.sampled_from([None, "layers", ["h", "layers"], "h"]),
    },
)


def tower():
    def block(*parts):
        return nn.ModuleDict({part: nn.Linear(9, 9, bias=False) for part in parts})

    torch.manual_seed(0)
    inner = {"attn": block("lin", "out"), "layers": nn.ModuleList(block("lin", "lins", "out") for _ in range(3))}
    return nn.ModuleDict({"net": nn.ModuleDict({**inner, "lin": nn.Linear(9, 9, bias=False)}), "h": block("out")})


def saved_without_card(model, folder):
    """As `save_pretrained` does, but for the README that it makes, which takes most of the time."""
    model.peft_config["default"].save_pretrained(folder)
    save_file(get_peft_model_state_dict(model), folder / "adapter_model.safetensors")


def of_peft(folder):
    loaded = PeftModel.from_pretrained(tower(), folder).base_model.model
    return {name: m.scaling["default"] for name, m in loaded.named_modules() if hasattr(m, "scaling")}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configurations)
@example(config={"r": 4, "lora_alpha": 4, "target_modules": ["lin", "lins"], "alpha_pattern": {"lin.": 20}})
def test_each_module_has_the_scaling_that_peft_gives_it(config, tmp_path_factory):
    if isinstance(config["target_modules"], str):
        config = {key: value for key, value in config.items() if not key.startswith("layers_")}  # PEFT refuses both
    if not config.get("layers_to_transform"):
        config = {**config, "layers_pattern": None}
    folder = tmp_path_factory.mktemp("peft")
    try:
        saved_without_card(get_peft_model(tower(), LoraConfig(**config)), folder)
    except ValueError:
        reject()
    try:
        expected = of_peft(folder)
    except RuntimeError as error:  # PEFT writes patterns in another order than it applied them in
        assert "size mismatch" in str(error)
        for read in (read_adapter, lambda place: load_peft(tower(), place)):
            with pytest.raises((AdapterFileError, LoraError), match="the config says rank"):
                read(folder)
        return
    ours = {name: factors.scaling for name, factors in read_adapter(folder).factors.items()}
    assert ours == pytest.approx(expected)
    assert {name: layer.scaling for name, layer in layers(load_peft(tower(), folder))} == pytest.approx(expected)


INNOCENT = {
    "task_type": "SEQ_CLS",
    "auto_mapping": {"base_model_class": "x", "parent_library": "y"},
    "peft_version": "99.0",
    "base_model_name_or_path": "somewhere/else",
    "revision": "other",
    "inference_mode": False,
    "lora_dropout": 0.5,
    "runtime_config": {"ephemeral_gpu_offload": True},
    "eva_config": {"rho": 3.0},
    "lora_ga_config": {"direction": "random"},
    "corda_config": {"corda_method": "kpm"},
    "loftq_config": {"loftq_bits": 2},
    "qalora_group_size": 2,
    "megatron_core": "other",
    "ensure_weight_tying": True,
    "fan_in_fan_out": True,
}


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_what_is_said_to_have_no_effect_has_none_in_peft(key, tmp_path):
    model = get_peft_model(tower(), LoraConfig(target_modules=["lin"], r=2, init_lora_weights=False))
    saved_without_card(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: INNOCENT[key]}))
    merged = PeftModel.from_pretrained(tower(), tmp_path).merge_and_unload().state_dict()
    for name, tensor in model.merge_and_unload().state_dict().items():
        assert torch.equal(merged[name], tensor)
    ours = load_peft(tower(), tmp_path)
    for name, layer in layers(ours):
        torch.testing.assert_close(layer.weight, merged[f"{name}.weight"])
    assert read_adapter(tmp_path).modules.keys() == dict(layers(ours)).keys()


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": ["out"]},
        {"target_modules": r"net\.attn\.lin"},
        {"exclude_modules": ["lin"]},
        {"layers_to_transform": [1]},
        {"layers_to_transform": [0, 1, 2], "layers_pattern": "h"},
        {"target_modules": []},
    ],
    ids=str,
)
def test_factors_that_peft_would_leave_out_are_refused(change, tmp_path):
    config = LoraConfig(target_modules=["lin"], r=2)
    model = get_peft_model(tower(), config)
    for key, value in change.items():
        setattr(config, key, value)
    saved_without_card(model, tmp_path)
    with pytest.raises(AdapterFileError, match=r"net.layers.\d.lin has factors, and the config does not target it"):
        read_adapter(tmp_path)
    with pytest.raises(LoraError, match=r"net.layers.\d.lin has factors, and the config does not target it"):
        load_peft(tower(), tmp_path)


def test_names_that_expressions_would_confuse_are_written_apart(tmp_path):
    """As an expression a dot is any letter: a.lin also fits a_lin."""
    parts = {"a": nn.ModuleDict({"lin": nn.Linear(9, 9)}), "a_lin": nn.Linear(9, 9), "b": nn.Linear(9, 9)}
    model = nn.ModuleDict(parts)
    config = OurConfig(rank_pattern={"a.lin": 2, "a_lin": 3}, alpha_pattern={"a.lin": 5, "a_lin": 7})
    ours = attach(copy.deepcopy(model), config)
    save_peft(ours, tmp_path / "ours")
    expected = {name: layer.scaling for name, layer in layers(ours)}
    assert {name: one.scaling for name, one in layers(load_peft(copy.deepcopy(model), tmp_path / "ours"))} == expected
    theirs = PeftModel.from_pretrained(model, tmp_path / "ours").base_model.model
    assert {name: m.scaling["default"] for name, m in theirs.named_modules() if hasattr(m, "scaling")} == expected
