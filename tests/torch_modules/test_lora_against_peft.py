"""The same A and B give the outputs and the merged weights that PEFT gives."""

import copy

import pytest
import torch
from torch import nn
from torch_modules.models import SmallCnn, bert, bert_output, cnn_output, disturb, gpt2, gpt2_output

from kameleon.errors import LoraError
from kameleon.torch_modules import LoraConfig, attach, count, detach, layers, load_peft, merge, save_peft

CASES = {
    "linear": (bert, ("query", "dense"), bert_output),
    "embedding": (bert, ("word_embeddings", "position_embeddings"), bert_output),
    "conv1d of transformers": (gpt2, ("c_attn", "c_proj"), gpt2_output),
    "all-linear": (gpt2, "all-linear", gpt2_output),
    "convolution": (SmallCnn, ("stem", "head"), cnn_output),
}


FILES = pytest.mark.filterwarnings(
    "ignore:.*fan_in_fan_out.*:UserWarning",
    "ignore:.*save_embedding_layers.*:UserWarning",
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
    "ignore:Could not find a config file.*:UserWarning",
)


def copy_factors(ours, theirs):
    for name, layer in layers(ours):
        module = theirs.base_model.model.get_submodule(name)
        if "default" in module.lora_embedding_A:
            module.lora_embedding_A["default"].copy_(layer.lora_a)
            module.lora_embedding_B["default"].copy_(layer.lora_b)
        else:
            module.lora_A["default"].weight.copy_(layer.lora_a)
            module.lora_B["default"].weight.copy_(layer.lora_b.view(module.lora_B["default"].weight.shape))


@torch.no_grad()
@pytest.mark.parametrize("rslora", [False, True], ids=["plain", "rslora"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_same_numbers_give_what_peft_gives(case, rslora):
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    torch.manual_seed(0)
    make, targets, run = CASES[case]
    model = make().eval()
    wanted = targets if isinstance(targets, str) else list(targets)
    theirs = get_peft_model(
        copy.deepcopy(model), PeftConfig(r=3, lora_alpha=6, target_modules=wanted, use_rslora=rslora)
    ).eval()
    ours = disturb(attach(model, LoraConfig(targets=targets, rank=3, alpha=6.0, rslora=rslora)))
    assert count(ours).trainable == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    copy_factors(ours, theirs)
    torch.testing.assert_close(run(ours), run(theirs), rtol=1e-4, atol=1e-5)
    merge(ours)
    plain, merged = detach(ours).state_dict(), theirs.merge_and_unload().state_dict()
    assert plain.keys() == merged.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], merged[name], rtol=1e-5, atol=1e-6, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@FILES
def test_our_files_in_peft_and_theirs_here(case, tmp_path):
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel, get_peft_model

    torch.manual_seed(0)
    make, targets, run = CASES[case]
    model = make().eval()
    names = [name for name, _ in layers(attach(copy.deepcopy(model), LoraConfig(targets=targets)))]
    config = LoraConfig(targets=targets, rank=3, alpha=6.0, rank_pattern={names[0]: 2}, alpha_pattern={names[-1]: 5.0})
    ours = disturb(attach(copy.deepcopy(model), config))
    save_peft(ours, tmp_path / "ours")
    config_file = tmp_path / "ours" / "adapter_config.json"
    plain_text = config_file.read_bytes()
    config_file.write_bytes(b"\xef\xbb\xbf" + plain_text)  # as an editor on Windows saves it
    assert torch.equal(run(load_peft(copy.deepcopy(model), tmp_path / "ours")), run(ours))
    config_file.write_bytes(plain_text)
    theirs = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "ours").eval()
    torch.testing.assert_close(run(theirs), run(ours), rtol=1e-4, atol=1e-5)
    wanted = targets if isinstance(targets, str) else list(targets)
    theirs = get_peft_model(copy.deepcopy(model), PeftConfig(r=3, lora_alpha=6, target_modules=wanted, use_rslora=True))
    for name, parameter in theirs.eval().named_parameters():
        if "lora_" in name:
            parameter.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(run(load_peft(model, tmp_path / "theirs")), run(theirs), rtol=1e-4, atol=1e-5)


@FILES
def test_what_finds_no_place_is_refused_and_nothing_is_attached(tmp_path):
    save_peft(disturb(attach(bert(), LoraConfig(targets=("query", "word_embeddings")))), tmp_path / "bert")
    for model, told in ((gpt2(), "is no layer of this model"), (SmallCnn(), "is no layer of this model")):
        with pytest.raises(LoraError, match=told):
            load_peft(model, tmp_path / "bert")
        assert not list(layers(model))
    with pytest.raises(LoraError, match="another change"):
        save_peft(attach(SmallCnn(), LoraConfig(targets=("grouped",))), tmp_path / "cnn")
    config = tmp_path / "bert" / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias": "none"', '"use_dora": true'))
    with pytest.raises(LoraError, match="use_dora = True"):
        load_peft(bert(), tmp_path / "bert")
    (tmp_path / "bert" / "adapter_model.safetensors").write_bytes(b"short")
    config.write_text(config.read_text().replace("true", "false", 1))
    with pytest.raises(LoraError, match="missing or damaged"):
        load_peft(bert(), tmp_path / "bert")


@pytest.mark.parametrize("setting", [{"dilation": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_a_convolution_that_peft_computes_otherwise_is_neither_saved_nor_loaded(setting, tmp_path):
    """PEFT's A has neither dilation nor padding mode: what it computes live is not what it merges."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    model = nn.Sequential(nn.Conv2d(3, 4, 3, **setting), nn.Conv2d(4, 2, 1, dilation=2, padding_mode="reflect"))
    with pytest.raises(LoraError, match="0 is a convolution whose dilation or padding PEFT leaves out of A"):
        save_peft(attach(copy.deepcopy(model), LoraConfig(targets=("0", "1"))), tmp_path / "ours")
    get_peft_model(copy.deepcopy(model), PeftConfig(target_modules=["0"])).save_pretrained(tmp_path / "theirs")
    with pytest.raises(LoraError, match="0 is a convolution whose dilation or padding PEFT leaves out of A"):
        load_peft(copy.deepcopy(model), tmp_path / "theirs")
    save_peft(attach(model, LoraConfig(targets=("1",))), tmp_path / "ours")  # one position, no padding: the same
