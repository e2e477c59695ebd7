"""GGUF files under Hugging Face names, whole, quantised, and cut or damaged anywhere."""

import struct

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_out

from kameleon.errors import WeightsError
from kameleon.model import open_gguf, open_weights
from kameleon.model.families import gguf_layouts
from kameleon.ops import StoredMatrix
from kameleon.weights import GgufFile

HEADS, KV_HEADS, HEAD_DIM, WIDTH = 4, 2, 8, 32
Type = gguf.GGMLQuantizationType


def permuted(w, heads):
    """The order in which llama.cpp's converter stores the rows of q and k."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def original_tensors():
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    return {
        "token_embd.weight": normal(6, WIDTH),
        "output_norm.weight": normal(WIDTH),
        "blk.0.attn_q.weight": normal(HEADS * HEAD_DIM, WIDTH),
        "blk.0.attn_k.weight": normal(KV_HEADS * HEAD_DIM, WIDTH),
        "blk.0.attn_v.weight": normal(KV_HEADS * HEAD_DIM, WIDTH),
        "blk.0.attn_q.bias": normal(HEADS * HEAD_DIM),
        "blk.0.ffn_up.weight": normal(64, WIDTH),
        "blk.0.ffn_down.weight": normal(WIDTH, 64),
    }


TYPES = {"blk.0.ffn_up.weight": Type.Q8_0, "blk.0.ffn_down.weight": Type.Q4_0, "blk.0.attn_v.weight": Type.F16}


def write(
    path, tensors=None, types=TYPES, family="llama", heads=HEADS, kv_heads=KV_HEADS, extra=(), alignment=32, text=""
):
    """A tiny GGUF; q and k are stored as llama.cpp's converter stores them."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_custom_alignment(alignment)
    if heads:
        writer.add_head_count(heads)
    if kv_heads:
        writer.add_head_count_kv(kv_heads)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ü"])
    for name, data in {**(original_tensors() if tensors is None else tensors), **dict(extra)}.items():
        if family == "llama" and (".attn_q." in name or ".attn_k." in name):
            data = permuted(data, heads if ".attn_q." in name else kv_heads or heads)
        kind = types.get(name, Type.F32)
        if kind == Type.F16:
            writer.add_tensor(name, data.astype(np.float16))
        elif kind == Type.F32:
            writer.add_tensor(name, np.ascontiguousarray(data))
        else:
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    write_out(writer)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_tensors_go_by_hugging_face_names_and_shapes(whole):
    weights = open_weights(whole)
    assert isinstance(weights, GgufFile)
    assert {name: weights.shape(name) for name in weights.names()} == {
        "model.embed_tokens.weight": (6, 32),
        "model.norm.weight": (32,),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.self_attn.k_proj.weight": (16, 32),
        "model.layers.0.self_attn.v_proj.weight": (16, 32),
        "model.layers.0.self_attn.q_proj.bias": (32,),
        "model.layers.0.mlp.up_proj.weight": (64, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 64),
    }
    assert list(weights.names()) == sorted(weights.names())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_name_of_a_family_is_the_one_that_transformers_uses(family):
    """gguf's own table, which its converter follows, read the other way round."""
    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), 12)
    inner = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj"
    inner += " mlp.down_proj input_layernorm post_attention_layernorm"
    if family in ("qwen3", "gemma3"):
        inner += " self_attn.q_norm self_attn.k_norm"
    if family == "gemma3":
        inner += " pre_feedforward_layernorm post_feedforward_layernorm"
    names = [f"model.layers.11.{part}" for part in inner.split()]
    for name in [*names, "model.embed_tokens", "model.norm", "lm_head"]:
        stored = table.get_name(name + ".weight", try_suffixes=(".weight",))
        assert gguf_layouts()[family].hf_name(stored) == name + ".weight"
        if ".layers." in name:
            assert gguf_layouts()[family].stored_name(name + ".weight") == stored


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.1.unheard_of.weight", ""])
def test_a_name_no_family_has_stays_as_it_is(name):
    assert gguf_layouts()["llama"].hf_name(name) == name


@pytest.mark.parametrize("kind", [Type.F32, Type.F16])
def test_numbers_at_odd_bytes_are_put_where_kernels_may_read_them(tmp_path, kind):
    tensors, names = original_tensors(), ("blk.0.attn_q.weight", "blk.0.ffn_up.weight", "output_norm.weight")
    odd = 0
    for more in range(4):
        path, types = tmp_path / f"{more}.gguf", dict.fromkeys(names[:2], kind)
        moved = {"x" * (more + 1): np.zeros(1, np.float32)}  # its name moves all numbers
        weights = open_gguf(write(path, tensors, types, extra=moved, alignment=1))
        for stored in names:
            name, wanted = weights.layout.hf_name(stored), torch.from_numpy(tensors[stored])
            odd += weights.info(name).offset % 4 != 0
            read = weights.tensor(name) if wanted.dim() == 1 else weights.matrix(name, tuple(wanted.shape))
            packed = isinstance(read, StoredMatrix)
            assert (read.data if packed else read).data_ptr() % (4 if kind == Type.F32 else 2) == 0
            torch.testing.assert_close(read.dense() if packed else read.float(), wanted, rtol=1e-3, atol=1e-3)
    assert odd


@pytest.mark.parametrize("kv_heads", [KV_HEADS, None])
def test_q_and_k_rows_come_back_in_their_original_order(tmp_path, kv_heads):
    tensors = original_tensors()
    weights = open_gguf(write(tmp_path / "a.gguf", tensors, kv_heads=kv_heads))
    for stored in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_q.bias"):
        assert torch.equal(weights.tensor(weights.layout.hf_name(stored)), torch.from_numpy(tensors[stored]))


@given(heads=st.integers(1, 5), half=st.integers(1, 5), width=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_order_is_undone_for_any_sizes(tmp_path_factory, heads, half, width):
    q = np.arange(heads * 2 * half * width, dtype=np.float32).reshape(heads * 2 * half, width)
    path = tmp_path_factory.mktemp("q") / "q.gguf"
    weights = open_gguf(write(path, {"blk.3.attn_q.weight": q}, heads=heads, kv_heads=None))
    assert torch.equal(weights.tensor("model.layers.3.self_attn.q_proj.weight"), torch.from_numpy(q))


def test_other_families_keep_the_stored_order(tmp_path):
    tensors = original_tensors()
    weights = open_gguf(write(tmp_path / "a.gguf", tensors, family="qwen2"))
    stored = torch.from_numpy(tensors["blk.0.attn_q.weight"])
    assert torch.equal(weights.tensor("model.layers.0.self_attn.q_proj.weight"), stored)


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.BF16, Type.F16, Type.F32])
def test_unpacked_values_equal_the_reference(tmp_path, kind):
    up = original_tensors()["blk.0.ffn_up.weight"]
    name = "blk.0.ffn_up.weight"
    weights = open_gguf(write(tmp_path / "a.gguf", {name: up}, types={name: kind}))
    got = weights.tensor("model.layers.0.mlp.up_proj.weight", (64, 32))
    floats = {Type.BF16: torch.bfloat16, Type.F16: torch.float16}
    assert got.dtype == floats.get(kind, torch.float32)
    expected = up.astype(np.float16) if kind == Type.F16 else gguf.dequantize(gguf.quantize(up, kind), kind)
    assert torch.equal(got.float(), torch.from_numpy(expected.astype(np.float32)))


def test_quantised_q_is_unpacked_before_its_rows_move(tmp_path):
    q = original_tensors()["blk.0.attn_q.weight"]
    name = "blk.0.attn_q.weight"
    weights = open_gguf(write(tmp_path / "a.gguf", {name: q}, types={name: Type.Q8_0}))
    expected = gguf.dequantize(gguf.quantize(q, Type.Q8_0), Type.Q8_0)
    assert torch.equal(weights.tensor("model.layers.0.self_attn.q_proj.weight"), torch.from_numpy(expected))


def test_a_type_that_cannot_be_unpacked_is_named(tmp_path):
    extra = {"blk.0.ffn_gate.weight": np.zeros((2, 4), dtype=np.int32)}
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, data in extra.items():
        writer.add_tensor(name, data)
    write_out(writer)
    with pytest.raises(WeightsError, match=r"mlp\.gate_proj\.weight.*I32"):
        open_gguf(tmp_path / "a.gguf").tensor("model.layers.0.mlp.gate_proj.weight")


def test_a_scale_that_is_no_number_is_refused(tmp_path):
    name = "blk.0.ffn_up.weight"
    path = write(tmp_path / "a.gguf", {name: original_tensors()[name]}, types={name: Type.Q8_0})
    content = bytearray(path.read_bytes())
    start = gguf.GGUFReader(path).tensors[0].data_offset
    content[start : start + 3] = b"\x00\x7c\x00"  # an infinite scale for a first number of 0
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"mlp\.up_proj\.weight \(Q8_0\)"):
        open_gguf(path).tensor("model.layers.0.mlp.up_proj.weight")


def test_q_without_a_head_count_is_refused(tmp_path):
    name = "blk.0.attn_q.weight"
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(name, original_tensors()[name])
    write_out(writer)
    with pytest.raises(WeightsError, match="head_count"):
        open_gguf(path).tensor("model.layers.0.self_attn.q_proj.weight")


def test_q_that_its_heads_do_not_divide_is_refused(tmp_path):
    name = "blk.0.attn_v.weight"
    path = write(tmp_path / "a.gguf", {name: np.zeros((10, 4), np.float32)}, types={})
    data = path.read_bytes().replace(b"attn_v", b"attn_q")
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="q_proj"):
        open_gguf(path).tensor("model.layers.0.self_attn.q_proj.weight")


def test_a_missing_tensor_and_another_shape_are_named(whole):
    weights = open_gguf(whole)
    for ask in (weights.shape, weights.tensor):
        with pytest.raises(WeightsError, match=r"no tensor lm_head\.weight"):
            ask("lm_head.weight")
    with pytest.raises(WeightsError, match="6 × 32; the config says 32 × 6"):
        weights.tensor("model.embed_tokens.weight", (32, 6))


def test_metadata_is_plain_python(whole):
    metadata = open_gguf(whole).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.attention.head_count"] == HEADS
    assert type(metadata["llama.attention.head_count"]) is int
    assert metadata["tokenizer.ggml.tokens"] == ["a", "b", "ü"]


def read_everything(path):
    weights = open_gguf(path)
    assert isinstance(weights.metadata, dict)
    return {name: weights.tensor(name, weights.shape(name)).clone() for name in weights.names()}


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_file_cut_short_anywhere_is_refused(whole, tmp_path_factory, data):
    """From the last tensor's last byte on there is only padding, without which nothing is lost."""
    content = whole.read_bytes()
    last = max(t.data_offset + t.n_bytes for t in gguf.GGUFReader(whole).tensors)
    cut = data.draw(st.integers(0, last - 1))
    path = tmp_path_factory.mktemp("cut") / "tiny.gguf"
    path.write_bytes(content[:cut])
    with pytest.raises(WeightsError, match=r"tiny\.gguf is not a whole GGUF file"):
        read_everything(path)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_byte_changed_anywhere_raises_nothing_else(whole, tmp_path_factory, data):
    content = bytearray(whole.read_bytes())
    header = min(t.data_offset for t in gguf.GGUFReader(whole).tensors)
    at = data.draw(st.integers(0, header - 1))
    content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "tiny.gguf"
    path.write_bytes(content)
    try:
        read_everything(path)
    except WeightsError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a gguf at all, but longer than a header", bytes(64)])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.gguf is not a whole GGUF file"):
        open_gguf(tmp_path / "a.gguf")


def test_arrays_nested_without_end_are_refused(tmp_path):
    """An array of arrays of arrays: the reader follows them by calling itself."""
    nested = struct.pack("<IQ", 9, 1) * 5000
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    (tmp_path / "a.gguf").write_bytes(head + nested)
    with pytest.raises(WeightsError, match="not a whole GGUF file"):
        open_gguf(tmp_path / "a.gguf")


def test_fingerprint_is_equal_for_equal_tensors_and_no_others(tmp_path):
    tensors = original_tensors()

    def of(name, tensors, **how):
        return open_gguf(write(tmp_path / f"{name}.gguf", tensors, **how)).fingerprint()

    first = of("one", tensors)
    assert of("two", tensors) == first
    assert of("one more", tensors | {"blk.0.unused.weight": np.zeros((1, 4), np.float32)}) != first
    assert of("reversed", dict(reversed(tensors.items()))) == first
    changed = {**tensors, "output_norm.weight": tensors["output_norm.weight"] + np.float32(1)}
    assert of("byte", changed) != first
    assert of("type", tensors, types={**TYPES, "blk.0.ffn_up.weight": Type.F16}) != first
    assert of("name", {name.replace("blk.0.", "blk.1."): t for name, t in tensors.items()}) != first
    reshaped = {**tensors, "token_embd.weight": tensors["token_embd.weight"].reshape(3, 64)}
    assert of("shape", reshaped) != first
