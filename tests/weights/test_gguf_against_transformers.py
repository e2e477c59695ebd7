"""Every tensor of a GGUF file equals the one that transformers' own loader makes of the same file."""

import gguf
import numpy as np
import pytest
import torch
from tiny import write_out
from transformers import AutoModelForCausalLM, logging

from kameleon.bases import locate
from kameleon.model import open_gguf

HEADS, KV_HEADS, WIDTH, INNER, VOCABULARY, LAYERS = 4, 2, 32, 64, 40, 2
HEAD_DIM = {
    "llama": 8,
    "qwen2": 8,
    "qwen3": 128,
    "gemma3": 16,
}  # transformers leaves Qwen3 at its 128 and ignores the file
Type = gguf.GGMLQuantizationType


def tensors(family):
    """A whole tiny base in GGUF names; llama's q and k need no reordering here, since both readers undo one."""
    random, head_dim = np.random.default_rng(0), HEAD_DIM[family]
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    shapes["output.weight"] = (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        rows = {"q": HEADS * head_dim, "k": KV_HEADS * head_dim, "v": KV_HEADS * head_dim}
        inner = {f"attn_{part}.weight": (size, WIDTH) for part, size in rows.items()}
        inner |= {"attn_output.weight": (WIDTH, HEADS * head_dim), "attn_norm.weight": (WIDTH,)}
        inner |= {"ffn_norm.weight": (WIDTH,), "ffn_down.weight": (WIDTH, INNER)}
        inner |= {"ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH)}
        if family == "qwen2":
            inner |= {f"attn_{part}.bias": (size,) for part, size in rows.items()}
        if family == "gemma3":
            inner |= {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
        if family in ("qwen3", "gemma3"):
            inner |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inner.items()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write(path, family):
    """With the types that mixed files hold: Q8_0 and Q4_1 for projections, F16 for the embedding, F32 for the rest."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM[family])
    writer.add_value_length(HEAD_DIM[family])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    for name, data in tensors(family).items():
        if name == "token_embd.weight":
            writer.add_tensor(name, data.astype(np.float16))
        elif data.ndim == 2 and name != "output.weight":
            kind = Type.Q4_1 if "attn_k" in name or "ffn_up" in name else Type.Q8_0
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    write_out(writer)
    return path


def assert_equal_to_transformers(path, family="llama"):
    ours = open_gguf(path)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    theirs = model.state_dict()
    if model.config.tie_word_embeddings:
        theirs.pop("lm_head.weight")
    assert set(ours.names()) == set(theirs)
    for name, expected in theirs.items():
        got = ours.tensor(name, tuple(expected.shape)).float()
        if family == "gemma3" and "norm" in name:  # stored with the 1 that transformers adds when it runs
            got = got - 1
        assert torch.equal(got, expected), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_tensor_of_a_family_is_the_one_that_transformers_reads(tmp_path, family):
    assert_equal_to_transformers(write(tmp_path / "tiny.gguf", family), family)


@pytest.mark.slow
def test_every_tensor_of_the_packaged_smollm2_is_the_one_that_transformers_reads():
    path = locate("smollm2").path
    if path.suffix != ".gguf":
        pytest.skip("the hub delivered safetensors")
    assert_equal_to_transformers(path)
