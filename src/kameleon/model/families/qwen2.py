"""Qwen2 and Qwen2.5: biases on q, k and v, and a window in the upper layers if the config asks for it."""

from dataclasses import replace

from kameleon.model.config import DecoderConfig
from kameleon.model.family import GGUF_MEMBERS, QKV, REQUIRED, Family
from kameleon.model.windows import by_layer_types, window_size
from kameleon.weights import GgufLayout, Metadata


def with_windows(config: DecoderConfig, values: Metadata) -> DecoderConfig:
    """`config` with the windows of `layer_types`, or of the layers from `max_window_layers` on."""
    window = window_size(values) if values.find("use_sliding_window", bool, default=False) else None
    if window is None:
        return config
    layers = config.num_layers
    if values.get("layer_types") is not None:
        return replace(config, windows=by_layer_types(values, window=window, layers=layers))
    first = values.find("max_window_layers", int, 28)
    return replace(config, windows=tuple(window if layer >= first else None for layer in range(layers)))


FAMILY = Family(
    name="qwen2",
    models="Qwen2, Qwen2.5",
    architecture="Qwen2ForCausalLM",
    gguf=GgufLayout("qwen2", GGUF_MEMBERS),
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096},
    required={key: value for key, value in REQUIRED.items() if key != "attention_bias"},  # the key is not Qwen2's
    biases=QKV,
    from_hf=with_windows,
)
