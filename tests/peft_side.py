"""The same adapter and tokens in PEFT on transformers' model, and here."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import reference_model

from kameleon.adapters.formats import read_adapter
from kameleon.adapters.resident import Bank
from kameleon.ops import Segments

TOKENS = torch.arange(24) * 7 % 320


def saved_by_peft(folder, seed=0, family="llama tied", save_embedding_layers="auto", **config):
    """An adapter with random numbers wherever PEFT would train, written by PEFT."""
    model = get_peft_model(reference_model(family), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.4, generator=generator))
            elif parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=generator)
    model.save_pretrained(folder, save_embedding_layers=save_embedding_layers)


@torch.inference_mode()
def peft_logits(folder, family="llama tied"):
    return PeftModel.from_pretrained(reference_model(family), folder).eval()(TOKENS[None]).logits[0]


@torch.inference_mode()
def our_logits(base, folder):
    bank = Bank(base)
    slot = bank.add(read_adapter(folder), any_base=True)
    hidden = base.decoder.hidden(TOKENS, Segments((len(TOKENS),), (slot,)), bank)
    return base.decoder.logits(hidden, [slot] * len(TOKENS), bank)


def assert_equal(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))
