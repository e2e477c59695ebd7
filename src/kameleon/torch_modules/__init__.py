"""LoRA for any torch module: linear, embedding, convolution. It knows torch and nothing of language models."""

from kameleon.torch_modules.attach import Count, attach, count, detach, layers
from kameleon.torch_modules.config import LoraConfig
from kameleon.torch_modules.layers import LoraConv, LoraConv1D, LoraEmbedding, LoraLayer, LoraLinear
from kameleon.torch_modules.merge import MergeReport, merge, unmerge
from kameleon.torch_modules.peft_files import load_peft, save_peft
from kameleon.torch_modules.state import load_lora_state_dict, lora_state_dict

__all__ = [
    "Count",
    "LoraConfig",
    "LoraConv",
    "LoraConv1D",
    "LoraEmbedding",
    "LoraLayer",
    "LoraLinear",
    "MergeReport",
    "attach",
    "count",
    "detach",
    "layers",
    "load_lora_state_dict",
    "load_peft",
    "lora_state_dict",
    "merge",
    "save_peft",
    "unmerge",
]
