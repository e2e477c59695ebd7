"""The fingerprint: equal for equal content, another for any difference, computed once while nothing changes."""

import json
import os
import shutil
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kameleon.home import atomic_write, cache_dir
from kameleon.weights import SafetensorsFolder, files, fingerprint
from kameleon.weights.fingerprint import hash_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.arange(4, dtype=torch.int32)}
NOTE = ".model.safetensors.fingerprint.json"


def write(folder, tensors=TENSORS, **metadata):
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata=metadata or None)
    return folder


def of(folder):
    return SafetensorsFolder(folder).fingerprint()


@pytest.fixture
def hashings(monkeypatch):
    """Counts how often the content is really hashed."""
    calls = []

    def counted(tensors):
        calls.append(1)
        return hash_tensors(tensors)

    monkeypatch.setattr(files, "hash_tensors", counted)
    return calls


def test_equal_content_has_an_equal_fingerprint_wherever_it_lies(tmp_path):
    one = of(write(tmp_path / "one"))
    assert one.startswith("sha256:")
    assert len(one) == 7 + 64
    assert one == of(write(tmp_path / "two"))


def test_neither_metadata_nor_shards_change_it(tmp_path):
    whole = of(write(tmp_path / "whole"))
    assert whole == of(write(tmp_path / "noted", format="pt"))
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    save_file({"b": TENSORS["b"]}, sharded / "1.safetensors")
    save_file({"a": TENSORS["a"]}, sharded / "2.safetensors")
    index = {"weight_map": {"b": "1.safetensors", "a": "2.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert whole == of(sharded)


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "b": torch.tensor([[0.0, 1, 2], [3, 4, 5.0000005]])},
        {"c": TENSORS["b"], "a": TENSORS["a"]},
        {**TENSORS, "b": TENSORS["b"].reshape(3, 2)},
        {**TENSORS, "a": TENSORS["a"].view(torch.float32)},
        {"b": TENSORS["b"]},
        {**TENSORS, "c": torch.zeros(0)},
    ],
    ids=["byte", "name", "shape", "type", "one less", "an empty one more"],
)
def test_any_difference_changes_it(tmp_path, changed):
    assert of(write(tmp_path / "one")) != of(write(tmp_path / "two", changed))


stored = st.lists(
    st.tuples(st.text(max_size=3), st.lists(st.integers(0, 3), max_size=2), st.sampled_from(["F32", "F16"])).flatmap(
        lambda head: st.binary(max_size=6).map(lambda data: (*head, data))
    ),
    max_size=3,
)


@given(one=stored, two=stored)
@settings(max_examples=200, deadline=None)
def test_no_two_lists_of_tensors_share_a_hash(one, two):
    def hashed(tensors):
        return hash_tensors((name, shape, kind, memoryview(data)) for name, shape, kind, data in tensors)

    assert (hashed(one) == hashed(two)) == (one == two)


def test_bytes_moved_between_neighbours_change_it():
    def hashed(first, second):
        return hash_tensors([("a", [2], "I8", memoryview(first)), ("b", [2], "I8", memoryview(second))])

    assert hashed(b"xy", b"z") != hashed(b"x", b"yz")


def test_chunks_do_not_change_it(monkeypatch):
    tensors = [("a", [50], "I8", memoryview(bytes(range(50))))]
    whole = hash_tensors(tensors)
    monkeypatch.setattr(fingerprint, "_CHUNK_BYTES", 7)
    assert hash_tensors(tensors) == whole


def test_it_is_kept_beside_the_file(tmp_path, hashings):
    folder = write(tmp_path / "base")
    first = of(folder)
    assert json.loads((folder / NOTE).read_text())["fingerprint"] == first
    assert of(folder) == first
    assert len(hashings) == 1


def test_a_changed_file_is_hashed_again(tmp_path, hashings):
    folder = write(tmp_path / "base")
    first = of(folder)
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(1, 1))
    assert of(folder) != first
    assert len(hashings) == 2


def test_a_replaced_file_of_equal_size_and_time_is_hashed_again(tmp_path, hashings):
    folder = write(tmp_path / "base")
    path = folder / "model.safetensors"
    first, stat = of(folder), path.stat()
    other = write(tmp_path / "other", {**TENSORS, "b": TENSORS["b"] + 1}) / "model.safetensors"
    assert other.stat().st_size == stat.st_size
    os.replace(other, path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert of(folder) != first


def test_a_change_in_the_second_shard_is_seen(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "1.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    first = of(tmp_path)
    save_file({"b": TENSORS["b"] + 1}, tmp_path / "2.safetensors")
    assert of(tmp_path) != first


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "base")

    def overtaken(tensors):
        hashed = hash_tensors(tensors)
        write(folder, {**TENSORS, "b": TENSORS["b"] + 1})
        return hashed

    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_tensors", overtaken)
        first = of(folder)
    assert of(folder) != first


def test_a_note_copied_with_its_file_is_not_trusted(tmp_path, hashings):
    of(write(tmp_path / "base"))
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    of(tmp_path / "copy")
    assert len(hashings) == 2


@pytest.mark.parametrize("note", ["", "{", "[]", "3", "null", "{}", '{"files": []}', "state only"])
def test_a_damaged_note_is_replaced(tmp_path, hashings, note):
    folder = write(tmp_path / "base")
    first = of(folder)
    if note == "state only":
        note = json.dumps({"files": json.loads((folder / NOTE).read_text())["files"]})
    (folder / NOTE).write_text(note)
    assert of(folder) == first
    assert len(hashings) == 2
    assert json.loads((folder / NOTE).read_text())["fingerprint"] == first


def test_a_note_that_is_not_text_is_replaced(tmp_path):
    folder = write(tmp_path / "base")
    first = of(folder)
    (folder / NOTE).write_bytes(b"\xff\xfe\x00")
    assert of(folder) == first


def read_only(monkeypatch, *folders):
    """As root no permission stops a write, so the refusal is made here."""

    def refusing(path):
        if path.parent in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return atomic_write(path)

    monkeypatch.setattr(fingerprint, "atomic_write", refusing)


def test_beside_a_read_only_folder_it_is_kept_in_the_cache(tmp_path, monkeypatch, hashings):
    folder = write(tmp_path / "base")
    read_only(monkeypatch, folder)
    first = of(folder)
    assert of(folder) == first
    assert len(hashings) == 1
    assert not (folder / NOTE).exists()
    assert len(list(cache_dir().iterdir())) == 1
    write(folder, {**TENSORS, "b": TENSORS["b"] + 1})
    assert of(folder) != first


def test_with_nowhere_to_keep_it_it_is_still_right(tmp_path, monkeypatch, hashings):
    folder = write(tmp_path / "base")
    read_only(monkeypatch, folder, cache_dir())
    assert of(folder) == of(folder)
    assert len(hashings) == 2


def test_it_covers_the_stored_bytes_and_not_the_order_in_the_file(tmp_path):
    """The same tensors laid out the other way round, by hand."""
    one = of(write(tmp_path / "one"))
    a, b = TENSORS["a"].numpy().tobytes(), TENSORS["b"].numpy().tobytes()
    head = {
        "a": {"dtype": "I32", "shape": [4], "data_offsets": [0, len(a)]},
        "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [len(a), len(a) + len(b)]},
    }
    text = json.dumps(head).encode()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + a + b)
    assert of(tmp_path / "two") == one
