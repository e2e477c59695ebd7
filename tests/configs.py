"""Values of a config.json of each family, as versions of transformers write them."""

from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 7,
    "bos_token_id": 1,
    "tie_word_embeddings": True,
}


CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def new_style(family, **extra):
    rope = {"rope_type": "default", "rope_theta": 50000.0}
    return CLASSES[family](**{**SIZES, "rope_parameters": rope, **extra}).to_dict()


def old_style(family, **extra):
    """As transformers 4 wrote it: rope_theta and rope_scaling at the top, and no keys that came later."""
    config = new_style(family, **extra)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.pop("layer_types", None)
    return config


def windows(config):
    return [config.window(layer) for layer in range(config.num_layers)]
