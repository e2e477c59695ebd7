"""Any LoRA configuration of PEFT, generated: the same logits here to 1e-4, or refused by the setting's name."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft_side import assert_equal, our_logits, peft_logits, saved_by_peft
from safetensors.torch import load_file, save_file
from tiny import reference_model, save_base

import kameleon
from kameleon.adapters.arithmetic import combine, diff, merge, resize
from kameleon.adapters.formats import read_adapter, write_adapter, write_gguf_adapter
from kameleon.adapters.resident import Bank
from kameleon.errors import AdapterError, AdapterFileError, AdapterMismatchError
from kameleon.model import open_weights

pytestmark = [  # what PEFT says of its own lora_bias
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True. was passed but the targeted layer"),
]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLACES = [*PROJECTIONS, "layers.1.self_attn.q_proj", r"model\.layers\.(0|2)\..*up_proj"]


ranks = st.integers(1, 12)
configurations = st.fixed_dictionaries(
    {
        "r": ranks,
        "lora_alpha": st.integers(1, 40),
        "use_rslora": st.booleans(),
        "target_modules": st.sets(st.sampled_from(PROJECTIONS), min_size=1).map(sorted) | st.just("all-linear"),
        "rank_pattern": st.dictionaries(st.sampled_from(PLACES), ranks, max_size=3),
        "alpha_pattern": st.dictionaries(st.sampled_from(PLACES), st.integers(1, 40), max_size=3),
        "layers_to_transform": st.none() | st.sets(st.integers(0, 2), min_size=1).map(sorted),
        "lora_dropout": st.sampled_from([0.0, 0.3]),
        "bias": st.sampled_from(["none", "lora_only", "all"]),
    }
)
VARIANTS = ({}, {"use_dora": True}, {"lora_bias": True})


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """A tiny Qwen2, whose q, k and v have biases, in fp32."""
    save_base(tmp_path_factory.mktemp("bases") / "qwen2", "qwen2")
    return kameleon.load(str(next(tmp_path_factory.getbasetemp().glob("bases*/qwen2"))), dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configurations, variant=st.sampled_from(VARIANTS), seed=st.integers(0, 9))
def test_logits_equal_peft_for_any_configuration(config, variant, seed, biased, tmp_path_factory):
    if config["target_modules"] == "all-linear":
        config["layers_to_transform"] = None  # PEFT takes the two only apart
    folder = tmp_path_factory.mktemp("peft")
    saved_by_peft(folder, seed, "qwen2", **config, **variant)
    try:
        theirs = peft_logits(folder, "qwen2")
    except RuntimeError as error:
        # PEFT writes patterns in another order than it applied them in: where two give one module two ranks, its file
        # contradicts itself.
        assert "size mismatch" in str(error)
        with pytest.raises(AdapterFileError, match="the config says rank"):
            read_adapter(folder)
        return
    assert_equal(our_logits(biased.base, folder), theirs)
    again = tmp_path_factory.mktemp("ours")
    write_adapter(read_adapter(folder), again / "adapter")
    assert_equal(peft_logits(again / "adapter", "qwen2"), theirs)


@pytest.mark.parametrize("variant", [{"use_dora": True, "bias": "all"}, {"lora_bias": True, "bias": "lora_only"}])
def test_variants_merge_as_in_peft(variant, biased, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, "qwen2", r=3, target_modules=["q_proj", "v_proj"], **variant)
    adapter, base = read_adapter(tmp_path / "peft"), biased.base
    report = merge(base, adapter, out=tmp_path / "merged", any_base=True)
    theirs = PeftModel.from_pretrained(reference_model("qwen2"), tmp_path / "peft").merge_and_unload().state_dict()
    ours = open_weights(tmp_path / "merged")
    for name in ours.names():
        torch.testing.assert_close(ours.tensor(name), theirs[name], rtol=1e-5, atol=1e-6)
    assert report.logit_gap_max < 1e-4 < 0.1 < report.logits_moved_max


def test_what_takes_a_and_b_alone_refuses_variants_by_name(biased, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, "qwen2", r=3, target_modules=["q_proj"], use_dora=True, bias="all")
    adapter = read_adapter(tmp_path / "peft")
    assert adapter.variants == ["DoRA (use_dora)", "biases of the base (bias)"]
    for act in (
        lambda: combine([adapter], "x"),
        lambda: resize(adapter, "x", 2),
        lambda: diff(adapter, adapter),
        lambda: write_gguf_adapter(adapter, biased.base, tmp_path / "x.gguf"),
    ):
        with pytest.raises(AdapterError, match=r"has DoRA \(use_dora\), biases of the base .* takes A and B alone"):
            act()


def test_biases_that_the_base_has_not_are_refused(biased, tiny, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, "qwen2", r=3, target_modules=["q_proj"], bias="all")
    adapter = read_adapter(tmp_path / "peft")
    with pytest.raises(AdapterMismatchError, match="replaces a bias that the base does not have"):
        Bank(tiny.base).add(adapter, any_base=True)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("infix", ["", ".default"])
def test_keys_of_older_versions_are_read(prefix, infix, tiny, tmp_path):
    saved_by_peft(tmp_path, r=3, target_modules=["q_proj", "up_proj"])
    theirs = peft_logits(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    renamed = {
        prefix + key.removeprefix("base_model.model.").replace(".weight", f"{infix}.weight"): tensor
        for key, tensor in load_file(path).items()
    }
    save_file(renamed, path)
    assert_equal(our_logits(tiny.base, tmp_path), theirs)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"modules_to_save": ["norm"]}, r"layernorm is replaced as a whole"),
        ({"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}, r"embed_tokens has a magnitude"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's own, about what these settings mean
def test_what_is_not_computed_here_is_refused_by_name(config, told, tmp_path):
    saved_by_peft(tmp_path, **{"r": 2, "target_modules": ["q_proj"], **config})
    with pytest.raises(AdapterFileError, match=told):
        read_adapter(tmp_path)
