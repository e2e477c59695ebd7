"""The same adapter file gives the same logits in PEFT on transformers' model and here, both ways."""

import pytest
import torch
from fakes import random_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import FAMILIES, reference_model, save_base

import kameleon
from kameleon.adapters.formats import read_adapter, write_adapter
from kameleon.ops import Segments

TOKENS = torch.arange(40) * 7 % 320


@torch.inference_mode()
def our_logits(loaded, name):
    segments = Segments((len(TOKENS),), (loaded.bank.slot(name),))
    return loaded.base.decoder.logits(loaded.base.decoder.hidden(TOKENS, segments, loaded.bank))


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_in_peft(family, tmp_path):
    save_base(tmp_path / "base", family)
    loaded = kameleon.load(str(tmp_path / "base"), dtype=torch.float32)
    adapter = random_adapter(loaded.base, "mine")
    write_adapter(adapter, tmp_path / "mine")
    loaded.load_adapter(adapter)
    theirs = PeftModel.from_pretrained(reference_model(family), tmp_path / "mine").eval()
    with torch.inference_mode():
        expected = theirs(TOKENS[None]).logits[0]
    torch.testing.assert_close(our_logits(loaded, "mine"), expected, rtol=1e-4, atol=1e-4)
    assert (our_logits(loaded, "mine") - our_logits(loaded, None)).abs().max() > 0.1


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_theirs_here(family, rslora, tmp_path):
    save_base(tmp_path / "base", family)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        use_rslora=rslora,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"layers.1.mlp.down_proj": 3},
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(3)
    model = get_peft_model(reference_model(family), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        expected = model(TOKENS[None]).logits[0]
    model.save_pretrained(tmp_path / "theirs")
    loaded = kameleon.load(str(tmp_path / "base"), dtype=torch.float32)
    adapter = read_adapter(tmp_path / "theirs")
    assert loaded.load_adapter(adapter, any_base=True).live
    torch.testing.assert_close(our_logits(loaded, "theirs"), expected, rtol=1e-4, atol=1e-4)
