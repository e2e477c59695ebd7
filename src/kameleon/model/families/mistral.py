"""Mistral: Llama with a window in every layer. Its GGUF files are Llama's."""

from dataclasses import replace

from kameleon.model.config import DecoderConfig
from kameleon.model.families import llama
from kameleon.model.family import Family
from kameleon.model.windows import window_size
from kameleon.weights import Metadata


def _from_hf(config: DecoderConfig, values: Metadata) -> DecoderConfig:
    window = window_size(values)
    return replace(config, windows=() if window is None else (window,) * config.num_layers)


FAMILY = Family(
    name="mistral",
    models="Mistral",
    architecture="MistralForCausalLM",
    gguf=llama.FAMILY.gguf,
    defaults={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    from_hf=_from_hf,
)
