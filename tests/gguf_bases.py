"""Small GGUF bases with random sizes, families and kinds of blocks; each seed makes the same file on every machine."""

from random import Random

import gguf
import numpy as np
from tiny import CHATML, tiny_tokenizer, write_out

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
VOCAB = 264


def write_gguf_base(path, seed):
    """One file of 2 layers whose matrices are stored in kinds that their rows allow; its numbers are small."""
    random, numbers = Random(seed), np.random.default_rng(seed)
    family, kv_heads, group = FAMILIES[seed % 4], random.choice([1, 1, 2, 3]), random.choice([1, 2, 3, 7])
    head_dim = random.choice([2, 6, 8, 10, 20, 32, 66])
    hidden, inner = random.choice([32, 64, 96, 256]), random.choice([32, 64, 160, 256])
    heads, window = kv_heads * group, random.choice([0, 0, 3, 20])
    writer = gguf.GGUFWriter(path, family)
    writer.add_custom_alignment(random.choice([1, 2, 8, 32]))
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head_dim)
    if window:
        writer.add_sliding_window(window)
    _add_tokenizer(writer)

    def add(name, rows, columns):
        kind = random.choice([k for k in KINDS if columns % block_of(k)[0] == 0])
        writer.add_tensor(name, stored(kind, rows, columns, numbers), raw_dtype=gguf.GGMLQuantizationType[kind])

    def add_row(name, size):
        writer.add_tensor(name, numbers.uniform(0.5, 1.5, size).astype(np.float32))

    add("token_embd.weight", VOCAB, hidden)
    add_row("output_norm.weight", hidden)
    if seed % 3:
        add("output.weight", VOCAB, hidden)
    sizes = {"attn_q": (heads * head_dim, hidden), "attn_k": (kv_heads * head_dim, hidden)}
    sizes |= {"attn_v": (kv_heads * head_dim, hidden), "attn_output": (hidden, heads * head_dim)}
    sizes |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
    for layer in range(2):
        for name, (rows, columns) in sizes.items():
            add(f"blk.{layer}.{name}.weight", rows, columns)
        for name, size in rows_of(family, hidden, head_dim, heads, kv_heads).items():
            add_row(f"blk.{layer}.{name}", size)
    write_out(writer)


def rows_of(family, hidden, head_dim, heads, kv_heads):
    """The sizes of a layer's norms and biases."""
    rows = {"attn_norm.weight": hidden, "ffn_norm.weight": hidden}
    if family in ("qwen3", "gemma3"):
        rows |= {"attn_q_norm.weight": head_dim, "attn_k_norm.weight": head_dim}
    if family == "gemma3":
        rows |= {"post_attention_norm.weight": hidden, "post_ffw_norm.weight": hidden}
    if family == "qwen2":
        rows |= {
            "attn_q.bias": heads * head_dim,
            "attn_k.bias": kv_heads * head_dim,
            "attn_v.bias": kv_heads * head_dim,
        }
    return rows


def _add_tokenizer(writer):
    tokenizer = tiny_tokenizer()
    tokens = [tokenizer.convert_ids_to_tokens(i) or f"<unused {i}>" for i in range(VOCAB)]
    tokens[-1] = tokens[0] + tokens[1]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in (256, 257) else 1 for i in range(VOCAB)])
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_chat_template(CHATML)


def block_of(kind):
    """(numbers, bytes) of a block."""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def stored(kind, rows, columns, numbers):
    """A matrix as the file keeps it. The package writes no K-blocks: theirs are random bytes with small scales."""
    if not kind.endswith("_K"):
        plain = (numbers.standard_normal((rows, columns)) * 0.1).astype(np.float32)
        return gguf.quantize(plain, gguf.GGMLQuantizationType[kind])
    _, size = block_of(kind)
    blocks = numbers.integers(0, 256, (rows, columns // 256, size), dtype=np.uint8)
    small = numbers.uniform(1e-4, 1e-3, (rows, columns // 256, 1)).astype(np.float16).view(np.uint8)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0, 2)):
        blocks[:, :, at : at + 2] = small
    return blocks.reshape(rows, -1)
