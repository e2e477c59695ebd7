"""The same A and B give the outputs and the merged weights that PEFT gives."""

import copy

import pytest
import torch
from lora.models import SmallCnn, bert, bert_output, cnn_output, disturb, gpt2, gpt2_output

from kameleon.lora import LoraConfig, attach, count, detach, layers, merge

CASES = {
    "linear": (bert, ("query", "dense"), bert_output),
    "embedding": (bert, ("word_embeddings", "position_embeddings"), bert_output),
    "conv1d of transformers": (gpt2, ("c_attn", "c_proj"), gpt2_output),
    "all-linear": (gpt2, "all-linear", gpt2_output),
    "convolution": (SmallCnn, ("stem", "head"), cnn_output),
}


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
