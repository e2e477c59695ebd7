"""Adapters in llama.cpp's format, read back by the `gguf` package and by us."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from fakes import random_adapter
from tiny import SIZES, save_base, save_gguf, write_out

import kameleon
from kameleon.adapters import Adapter
from kameleon.adapters.formats import read_gguf_adapter, write_gguf_adapter
from kameleon.errors import AdapterFileError, AdapterMismatchError

Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def written(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_gguf_adapter(adapter, tiny.base, tmp_path / "mine.gguf")
    return adapter, tmp_path / "mine.gguf"


def test_the_file_says_what_llama_cpp_asks_for(written):
    adapter, path = written
    reader = gguf.GGUFReader(path)
    said = {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "mine",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 2 * len(adapter.modules)
    assert list(tensors["blk.1.attn_q.weight.lora_a"].shape) == [64, 4]  # ggml's order: the row's length first
    assert np.array_equal(tensors["blk.0.ffn_up.weight.lora_b"].data, adapter.modules["model.layers.0.mlp.up_proj"].b)


def test_q_and_k_are_in_the_order_in_which_a_base_file_has_them(tmp_path):
    """B A added to the file's own rows equals the change of the rows in Hugging Face order."""
    save_gguf(tmp_path / "base.gguf", "F32")
    base = kameleon.load(str(tmp_path / "base.gguf"), dtype=torch.float32).base
    adapter = random_adapter(base, "mine")
    write_gguf_adapter(adapter, base, tmp_path / "mine.gguf")
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "mine.gguf").tensors}
    for kind, hf in (("attn_q", Q), ("attn_k", Q.replace("q_proj", "k_proj")), ("attn_v", Q.replace("q_", "v_"))):
        name = f"blk.1.{kind}.weight"
        stored = 2.0 * tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        torch.testing.assert_close(stored, base.weights.stored_order(f"{hf}.weight", adapter.modules[hf].delta()))


@pytest.mark.parametrize(
    ("family", "architecture"),
    [("llama tied", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3")],
)
def test_a_round_trip_changes_nothing_and_names_llama_cpps_architecture(family, architecture, tmp_path):
    save_base(tmp_path / "base", family)
    base = kameleon.load(str(tmp_path / "base"), dtype=torch.float32).base
    adapter = random_adapter(base, "mine")
    write_gguf_adapter(adapter, base, tmp_path / "mine.gguf")
    assert gguf.GGUFReader(tmp_path / "mine.gguf").fields["general.architecture"].contents() == architecture
    assert read_gguf_adapter(tmp_path / "mine.gguf", base, "mine").fingerprint == adapter.fingerprint


def test_ranks_alphas_and_rslora_of_each_module_survive_the_one_alpha(tiny, tmp_path):
    mixed = {}
    for i, (name, f) in enumerate(random_adapter(tiny.base, "mine").modules.items()):
        rank = 1 + i % 4
        mixed[name] = replace(f, a=f.a[:rank], b=f.b[:, :rank], alpha=3.0 + i, rslora=True)
    write_gguf_adapter(Adapter("mine", mixed, random_adapter(tiny.base, "x").card), tiny.base, tmp_path / "mine.gguf")
    got = read_gguf_adapter(tmp_path / "mine.gguf", tiny.base, "mine")
    for name, factors in mixed.items():
        torch.testing.assert_close(got.modules[name].delta(), factors.delta())


def made(path, tensors, architecture="llama", **said):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {"general.type": "adapter", "adapter.type": "lora", **said}.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    write_out(writer)
    return path


UP = "blk.0.ffn_up.weight.lora_"


@pytest.mark.parametrize(
    ("tensors", "how", "told"),
    [
        ({f"{UP}a": (2, 64)}, {}, "no pair"),
        ({f"{UP}a": (2, 64), f"{UP}b": (96, 3)}, {}, "no pair"),
        ({f"{UP}a": (2, 64), f"{UP}b": (95, 2)}, {}, "95 outputs"),
        ({f"{UP}a": (2, 64), "model.layers.0.mlp.up_proj.lora_a": (2, 64)}, {}, "factor a of .*up_proj twice"),
        ({"blk.9.ffn_up.weight.lora_a": (2, 64)}, {}, "no LoRA factor of a projection"),
        ({"token_embd.weight.lora_a": (2, 64)}, {}, "no LoRA factor of a projection"),
        ({}, {}, "no LoRA factors at all"),
        ({f"{UP}a": (2, 64)}, {"adapter.type": "control"}, "no LoRA adapter"),
        ({f"{UP}a": (2, 64)}, {"architecture": "qwen2"}, "is for qwen2, the base is llama"),
    ],
)
def test_what_is_no_adapter_of_this_base_is_refused(tensors, how, told, tiny, tmp_path):
    path = made(tmp_path / "x.gguf", tensors, **how)
    with pytest.raises((AdapterFileError, AdapterMismatchError), match=told):
        read_gguf_adapter(path, tiny.base, "x")


def test_a_file_cut_short_is_refused(written, tiny):
    _, path = written
    whole = path.read_bytes()
    for size in (0, 3, 30, 300, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(AdapterFileError, match="not a whole GGUF"):
            read_gguf_adapter(path, tiny.base, "x")
    assert SIZES["hidden_size"] == 64
