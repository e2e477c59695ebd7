"""Adapter files made to do harm, or damaged: only AdapterFileError comes out.

`corpus/` keeps inputs that once needed a check of their own; each file is an adapter_config.json, a kameleon.json or an
adapter_model.safetensors, by its ending.
"""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kameleon.adapters import Adapter, Card, LoraFactors
from kameleon.adapters.formats import read_adapter, write_adapter
from kameleon.errors import AdapterFileError

CORPUS = Path(__file__).parent / "corpus"
ENDINGS = {".config": "adapter_config.json", ".card": "kameleon.json", ".safetensors": "adapter_model.safetensors"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIG_KEYS = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type", "base_model_name_or_path"]
CARD_KEYS = [
    "format",
    "files",
    "parents",
    "base_fingerprint",
    "recipe",
    "created",
    "template_hash",
    "system_prompt",
    "x",
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good adapter's folder and files, without the hashes in its card, which would hide every other check."""
    folder = tmp_path_factory.mktemp("hostile") / "mine"
    modules = {f"model.layers.{i}.mlp.up_proj": LoraFactors(torch.ones(2, 3), torch.ones(4, 2), 2.0) for i in (0, 1)}
    write_adapter(Adapter("mine", modules, Card(base_fingerprint="sha256:0")), folder)
    card = json.loads((folder / "kameleon.json").read_text())
    (folder / "kameleon.json").write_text(json.dumps({**card, "files": {}}))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def try_with(good, name, content):
    """Read the adapter with one file replaced. Anything but a whole adapter or AdapterFileError fails the test."""
    folder, files = good
    for other, original in files.items():
        (folder / other).write_bytes(original)
    (folder / name).write_bytes(content)
    try:
        return read_adapter(folder)
    except AdapterFileError:
        return None


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_every_file_of_the_corpus_is_refused(path, good):
    assert try_with(good, ENDINGS[path.suffix], path.read_bytes()) is None


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_byte_changed_anywhere_raises_nothing_else(data, good):
    name = data.draw(st.sampled_from(sorted(good[1])))
    content = bytearray(good[1][name])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, min(len(content) - 1, 700)))
        content[where] = data.draw(st.integers(0, 255))
    try_with(good, name, bytes(content[: data.draw(st.integers(0, len(content)))]))


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(CONFIG_KEYS), value=JSON)
@example(key="rank_pattern", value={"(a*)*b": 4})
@example(key="rank_pattern", value={"(": 4})
@example(key="alpha_pattern", value={"q_proj": "many"})
@example(key="r", value=True)
@example(key="r", value=1e400)
def test_any_value_in_the_config_raises_nothing_else(key, value, good):
    config = {**json.loads(good[1]["adapter_config.json"]), key: value}
    adapter = try_with(good, "adapter_config.json", json.dumps(config).encode())
    assert adapter is None or adapter.modules


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(CARD_KEYS), value=JSON)
@example(key="parents", value=[{"name": "x"}])
@example(key="parents", value=[5])
@example(key="base_fingerprint", value=5)
def test_any_value_in_the_card_raises_nothing_else(key, value, good):
    card = {**json.loads(good[1]["kameleon.json"]), key: value}
    try_with(good, "kameleon.json", json.dumps(card).encode())


@settings(max_examples=300, deadline=None)
@given(
    entries=st.dictionaries(
        st.sampled_from(["base_model.model.a.lora_A.weight", "../../x.lora_A.weight", "a.lora_B.weight", "x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "I64", "BOOL", "F99"]),
                "shape": st.lists(st.integers(-1, 2**62), max_size=3),
                "data_offsets": st.lists(st.integers(-1, 2**62), min_size=2, max_size=2),
            }
        ),
        max_size=3,
    ),
    data=st.binary(max_size=64),
)
def test_any_safetensors_header_is_refused(entries, data, good):
    assert try_with(good, "adapter_model.safetensors", header(entries, data)) is None


def test_numbers_that_lie_at_odd_bytes_are_read(good):
    """The format's own writer aligns them, others need not."""
    content = good[1]["adapter_model.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    longer = struct.pack("<Q", length + 1) + content[8 : 8 + length] + b" " + content[8 + length :]
    adapter = try_with(good, "adapter_model.safetensors", longer)
    assert adapter is not None
    assert all(bool((f.a == 1).all() and (f.b == 1).all()) for f in adapter.modules.values())
