"""The header reader against the gguf package on sound files, and against anything at all on others."""

import struct
import time
import tracemalloc
from collections import Counter
from random import Random

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_out

from kameleon.errors import WeightsError
from kameleon.home import bases_dir
from kameleon.weights.gguf_header import read_header

Type = gguf.GGUFValueType


def write(path, tensors=3):
    """A small file with every type of metadata and several kinds of tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in (
        (Type.UINT8, 200),
        (Type.INT8, -100),
        (Type.UINT16, 60000),
        (Type.INT16, -30000),
        (Type.UINT32, 4_000_000_000),
        (Type.INT32, -2_000_000_000),
        (Type.FLOAT32, 1.5),
        (Type.BOOL, True),
        (Type.STRING, "żółw 🦎"),
        (Type.UINT64, 1 << 60),
        (Type.INT64, -(1 << 60)),
        (Type.FLOAT64, 1e-300),
    ):
        writer.add_key_value(f"x.{kind.name.lower()}", value, kind)
    writer.add_custom_alignment(64)
    writer.add_array("x.texts", ["a", "", "ü"])
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("x.floats", [0.5, -0.25])
    writer.add_array("x.flags", [True, False])
    writer.add_array("x.nested", [[1, 2], [3, 4]])
    kinds = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0)
    for number in range(tensors):
        numbers = np.random.default_rng(number).standard_normal((3, 64)).astype(np.float32)
        kind = kinds[number % len(kinds)]
        data = numbers if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(numbers, kind)
        writer.add_tensor(f"blk.{number}.ffn_up.weight", data, raw_dtype=kind)
    write_out(writer)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write(tmp_path_factory.mktemp("header") / "sound.gguf").read_bytes()


def same_as_the_package(path):
    header, other = read_header(memoryview(path.read_bytes())), gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in other.fields.items() if not name.startswith("GGUF.")}
    theirs.pop("x.nested", None)  # which it gives flat
    assert {name: value for name, value in header.metadata.items() if name != "x.nested"} == theirs
    assert [(t.name, t.shape, t.kind, t.offset, t.size_bytes) for t in header.tensors] == [
        (t.name, tuple(t.shape), t.tensor_type.name, t.data_offset, t.n_bytes) for t in other.tensors
    ]


def test_every_type_of_metadata_is_read_as_the_gguf_package_reads_it(tmp_path):
    path = write(tmp_path / "a.gguf")
    header = read_header(memoryview(path.read_bytes()))
    assert header.metadata["x.string"] == "żółw 🦎"
    assert header.metadata["x.nested"] == [[1, 2], [3, 4]]
    assert type(header.metadata["x.uint64"]) is int
    same_as_the_package(path)


@pytest.mark.slow
def test_a_real_file_is_read_as_the_gguf_package_reads_it():
    found = sorted(bases_dir().glob("*.gguf"))
    if not found:
        pytest.skip("no GGUF base on this machine")
    same_as_the_package(found[0])


def test_the_beginning_of_a_file_is_enough_when_its_size_is_told(sound):
    whole = read_header(memoryview(sound))
    start = min(tensor.offset for tensor in whole.tensors)
    assert read_header(memoryview(sound)[:start], len(sound)) == whole
    with pytest.raises(WeightsError, match=r"blk\.0.*is not whole"):
        read_header(memoryview(sound)[:start])


def test_a_file_cut_anywhere_says_where(sound):
    last = max(tensor.offset + tensor.size_bytes for tensor in read_header(memoryview(sound)).tensors)
    for cut in range(last):
        with pytest.raises(WeightsError, match=r"GGUF|cut short|not whole|claims"):
            read_header(memoryview(sound)[:cut])
    with pytest.raises(WeightsError, match=r"cut short at x\.texts"):
        read_header(memoryview(sound)[: sound.index(b"x.texts") + 20])
    with pytest.raises(WeightsError, match=r"blk\.2\.ffn_up\.weight.*is not whole"):
        read_header(memoryview(sound)[: last - 1])


def number(value, letter="Q"):
    return struct.pack(f"<{letter}", value)


def text(value):
    return number(len(value)) + value


def header(*, keys=b"", key_count=0, tensors=b"", tensor_count=0, version=3):
    return b"GGUF" + number(version, "I") + number(tensor_count) + number(key_count) + keys + tensors


def tensor(name=b"t", shape=(32,), kind=0, offset=0):
    sizes = b"".join(number(size) for size in shape)
    return text(name) + number(len(shape), "I") + sizes + number(kind, "I") + number(offset)


ARRAY, STRING, UINT8 = number(9, "I"), number(8, "I"), number(0, "I")
HOSTILE = {
    "a count of keys beyond any file": (header(key_count=1 << 62), "claims 4,611,686,018,427,387,904 keys"),
    "a count of tensors beyond any file": (header(tensor_count=1 << 40), "claims .* tensors"),
    "a count that could just be": (header(key_count=1000), "cut short"),
    "a text without end": (header(keys=number(1 << 63), key_count=1), "cut short"),
    "an array without end": (header(keys=text(b"k") + ARRAY + UINT8 + number(1 << 50), key_count=1), "k claims"),
    "arrays without end in arrays": (
        header(keys=text(b"k") + ARRAY + (ARRAY + number(1)) * 1000, key_count=1),
        "k nests arrays deeper than 4",
    ),
    "a key twice": (header(keys=(text(b"k") + UINT8 + b"\x01") * 2, key_count=2), "holds k twice"),
    "a value of no type": (header(keys=text(b"k") + number(77, "I"), key_count=1), "k has a value of unknown type 77"),
    "a key that is no text": (header(keys=text(b"\xff\xfe") + UINT8 + b"\x01", key_count=1), "not UTF-8"),
    "an alignment that is none": (
        header(keys=text(b"general.alignment") + number(4, "I") + number(33, "I"), key_count=1),
        "alignment is 33; it must be a power of two",
    ),
    "version 1": (header(version=1), "version 1 is not read here"),
    "the other byte order": (header(version=3 << 24), "big-endian"),
    "a tensor without axes": (header(tensors=tensor(shape=()) + bytes(64), tensor_count=1), "t has 0 axes"),
    "a tensor of many axes": (header(tensors=tensor(shape=(1,) * 9) + bytes(64), tensor_count=1), "t has 9 axes"),
    "an empty tensor": (header(tensors=tensor(shape=(32, 0)) + bytes(64), tensor_count=1), "t is 32 × 0: it is empty"),
    "a kind nobody knows": (header(tensors=tensor(kind=99) + bytes(64), tensor_count=1), r"t is stored.*number 99"),
    "half a block": (header(tensors=tensor(shape=(48,), kind=2) + bytes(64), tensor_count=1), "not whole Q4_0 blocks"),
    "a tensor behind the end": (header(tensors=tensor(offset=1 << 40) + bytes(512), tensor_count=1), "t .*not whole"),
    "a tensor beyond all numbers": (
        header(tensors=tensor(shape=(1 << 63,) * 4) + bytes(512), tensor_count=1),
        "t .*not whole",
    ),
    "a tensor off the grid": (
        header(tensors=tensor(offset=7) + bytes(512), tensor_count=1),
        "multiple of the alignment",
    ),
    "a tensor twice": (
        header(tensors=tensor() + tensor(offset=128) + bytes(512), tensor_count=2),
        "lists t twice",
    ),
    "tensors over each other": (
        header(tensors=tensor(b"a") + tensor(b"b", offset=64) + bytes(512), tensor_count=2),
        "a and b overlap",
    ),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_refused_and_costs_nothing(content, said):
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=said):
            read_header(memoryview(content))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_claim_that_a_large_file_could_back_is_refused_too():
    """Two hundred million bytes of tensors are as many numbers of one byte, or python objects of gigabytes."""
    keys = text(b"k") + ARRAY + UINT8 + number(200_000_000)
    content = np.zeros(210_000_000, np.uint8)
    head = header(keys=keys, key_count=1)
    content[: len(head)] = np.frombuffer(head, np.uint8)
    with pytest.raises(WeightsError, match="k claims 200,000,000 numbers"):
        read_header(content.data)


def check_anything(content):
    """Either a header whose every tensor lies inside the file, or WeightsError; quickly, and without much memory.

    Returns what was said, or None.
    """
    started, said = time.perf_counter(), None
    try:
        found = read_header(memoryview(content))
    except WeightsError as error:
        said = str(error)
        assert said
    else:
        assert all(t.offset >= 0 and t.offset + t.size_bytes <= len(content) for t in found.tensors)
    assert time.perf_counter() - started < 5
    return said


REFUSALS = (
    "does not begin with GGUF",
    "is not read here",
    "claims",
    "cut short",
    "is not UTF-8",
    "twice",
    "unknown type",
    "general.alignment is",
    "axes; it must have",
    "kind that is not known",
    "it is empty",
    "not whole",
    "not a multiple of the alignment",
    "overlap in it",
)


def damaged(content, seed):
    """The file with some of its numbers, bytes or stretches changed; the same for the same seed."""
    random, changed = Random(seed), bytearray(content)
    start = min(t.offset for t in read_header(memoryview(content)).tensors)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(min(start, len(changed)))
        how = random.choice(["byte", "number", "cut", "repeat"])
        if how == "byte":
            changed[at] = random.randrange(256)
        elif how == "number":
            size = random.choice([4, 8])
            value = random.choice([0, 1, 2, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62])
            changed[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        elif how == "cut":
            del changed[at : at + random.randint(1, 64)]
        else:
            stretch = bytes(changed[at : at + random.randint(1, 64)])
            changed[at:at] = stretch
        if len(changed) < 32:
            break
    return bytes(changed)


@given(seed=st.integers(0, 1 << 40))
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_is_either_harmless_or_refused(sound, seed):
    check_anything(damaged(sound, seed))


@given(content=st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_bytes_that_only_begin_like_a_file(content):
    check_anything(b"GGUF\x03\x00\x00\x00" + content)


@pytest.mark.slow
def test_damage_anywhere_a_hundred_thousand_times(sound):
    """The corpus is its seeds: each of them makes the same file on every machine. Together they reach every refusal."""
    reached = Counter()
    for seed in range(100_000):
        try:
            said = check_anything(damaged(sound, seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        reached[said and next((part for part in REFUSALS if part in said), said)] += 1
    assert reached.keys() == {None, *REFUSALS}, reached
