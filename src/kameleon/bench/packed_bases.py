"""Packed bases with random weights in the shape of real ones. Their blocks are drawn, not quantised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from kameleon.home import atomic_write

Kind = gguf.GGMLQuantizationType
Mix = Callable[[str, int, int], Kind]
"""(role of a tensor, its layer, number of layers) to the kind in which it is stored."""

_FP16_SCALES = {  # places of the fp16 scales in a block, and values that make weights of about 0.02
    Kind.Q4_0: ((0, 4e-3),),
    Kind.Q8_0: ((0, 2.7e-4),),
    Kind.Q4_K: ((0, 8e-5), (2, 6e-4)),
    Kind.Q6_K: ((208, 1.5e-5),),
}


def _q4_0(role: str, layer: int, layers: int) -> Kind:
    return Kind.Q6_K if role in ("token_embd", "output") else Kind.Q4_0


def _q4_0_q8_0(role: str, layer: int, layers: int) -> Kind:
    """llama.cpp stores the head in Q8_0 if its rows are not whole blocks of 256."""
    return Kind.Q8_0 if role in ("token_embd", "output") else Kind.Q4_0


def _q4_k_m(role: str, layer: int, layers: int) -> Kind:
    """llama.cpp gives half of the layers' V and down projections, and the head, two bits more."""
    finer = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Kind.Q6_K if role == "output" or (role in ("attn_v", "ffn_down") and finer) else Kind.Q4_K


MIXES: dict[str, Mix] = {"Q4_0": _q4_0, "Q4_0, Q8_0": _q4_0_q8_0, "Q4_K_M": _q4_k_m}


def write_packed_shape(path: Path, family: str, sizes: Mapping[str, Any], mix: Mix) -> None:
    """Write a `.gguf` file of these sizes (keys as in a config.json); `path` appears whole or not at all.

    A packed matrix needs rows of whole blocks: 256 numbers for kinds that end in K.
    """
    with atomic_write(path) as file:
        _write(Path(file.name), family, sizes, mix)


def _write(path: Path, family: str, sizes: Mapping[str, Any], mix: Mix) -> None:
    writer = gguf.GGUFWriter(path, family)
    layers, size, wide = sizes["num_hidden_layers"], sizes["hidden_size"], sizes["intermediate_size"]
    heads, kv_heads, vocab = sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["vocab_size"]
    writer.add_block_count(layers)
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if family == "qwen2" else "llama-bpe")
    writer.add_token_list(["a", "b", "ab", *(f"<{token}>" for token in range(3, vocab))])
    writer.add_token_types([1] * vocab)
    writer.add_token_merges(["a b"])
    kv = size // heads * kv_heads
    matrices = {"attn_q": (size, size), "attn_k": (kv, size), "attn_v": (kv, size), "attn_output": (size, size)}
    matrices |= {"ffn_gate": (wide, size), "ffn_up": (wide, size), "ffn_down": (size, wide)}
    vectors = ["attn_norm", "ffn_norm"]
    tensors: list[tuple[str, tuple[int, ...], Kind]] = [
        (
            "token_embd.weight",
            (vocab, size),
            mix("output" if sizes["tie_word_embeddings"] else "token_embd", 0, layers),
        ),
        ("output_norm.weight", (size,), Kind.F32),
    ]
    if not sizes["tie_word_embeddings"]:
        tensors.append(("output.weight", (vocab, size), mix("output", 0, layers)))
    for layer in range(layers):
        at = f"blk.{layer}"
        tensors += [(f"{at}.{role}.weight", shape, mix(role, layer, layers)) for role, shape in matrices.items()]
        tensors += [(f"{at}.{role}.weight", (size,), Kind.F32) for role in vectors]
        if family == "qwen2":
            tensors += [(f"{at}.attn_{p}.bias", (size if p == "q" else kv,), Kind.F32) for p in "qkv"]
    for name, shape, kind in tensors:
        stored = _stored_shape(shape, kind)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for _, shape, kind in tensors:
        writer.write_tensor_data(_numbers(random, shape, kind))
    writer.close()


def _stored_shape(shape: tuple[int, ...], kind: Kind) -> tuple[int, ...]:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return (*shape[:-1], shape[-1] // block * size)


def _numbers(random: np.random.Generator, shape: tuple[int, ...], kind: Kind) -> np.ndarray[Any, Any]:
    if kind == Kind.F32:
        return np.ones(shape, np.float32).view(np.uint8)
    data = np.frombuffer(random.bytes(int(np.prod(_stored_shape(shape, kind)))), np.uint8).copy()
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    for at, scale in _FP16_SCALES[kind]:
        blocks[:, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return data.reshape(_stored_shape(shape, kind))
