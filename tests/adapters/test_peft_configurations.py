"""Any LoRA configuration of PEFT, generated: the same logits here to 1e-4, or refused by the setting's name."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import reference_model

from kameleon import Adapter
from kameleon.adapters import Bank
from kameleon.errors import AdapterFileError
from kameleon.ops import Segments

TOKENS = torch.arange(24) * 7 % 320
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLACES = [*PROJECTIONS, "layers.1.self_attn.q_proj", r"model\.layers\.(0|2)\..*up_proj"]


def saved_by_peft(folder, seed=0, **config):
    """An adapter with random factors, written by PEFT."""
    model = get_peft_model(reference_model("llama tied"), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1, generator=generator)
    model.save_pretrained(folder)


@torch.inference_mode()
def peft_logits(folder):
    return PeftModel.from_pretrained(reference_model("llama tied"), folder).eval()(TOKENS[None]).logits[0]


@torch.inference_mode()
def our_logits(base, folder):
    bank = Bank(base)
    slot = bank.add(Adapter.load(folder), any_base=True)
    return base.decoder.logits(base.decoder.hidden(TOKENS, Segments((len(TOKENS),), (slot,)), bank))


def assert_equal(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


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
    }
)


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configurations, seed=st.integers(0, 9))
def test_logits_equal_peft_for_any_configuration(config, seed, tiny, tmp_path_factory):
    if config["target_modules"] == "all-linear":
        config["layers_to_transform"] = None  # PEFT takes the two only apart
    folder = tmp_path_factory.mktemp("peft")
    saved_by_peft(folder, seed, **config)
    try:
        theirs = peft_logits(folder)
    except RuntimeError as error:
        # PEFT writes patterns in another order than it applied them in: where two give one module two ranks, its file
        # contradicts itself.
        assert "size mismatch" in str(error)
        with pytest.raises(AdapterFileError, match="the config says rank"):
            Adapter.load(folder)
        return
    assert_equal(our_logits(tiny.base, folder), theirs)


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
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"modules_to_save": ["norm"]}, r"modules_to_save = \['norm'\]"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"embed_tokens\..* is not a LoRA factor"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's own, about what these settings mean
def test_what_is_not_computed_here_is_refused_by_name(config, told, tmp_path):
    saved_by_peft(tmp_path, **{"r": 2, "target_modules": ["q_proj"], **config})
    with pytest.raises(AdapterFileError, match=told):
        Adapter.load(tmp_path)
