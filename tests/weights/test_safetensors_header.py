"""A safetensors header is read strictly: every tensor lies in the file, or the fault is told in our own error."""

import json
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from kameleon.errors import WeightsError
from kameleon.weights import read_safetensors_header
from kameleon.weights.safetensors_header import KIND_BITS, header_bytes, header_end, parse_header, place_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "none": torch.zeros(0, 5).bfloat16()}


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def parse(content):
    return parse_header(content[: header_end(content, len(content))], len(content))


def entry(dtype="F32", shape=(2,), first=0, last=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_what_the_formats_own_library_writes_is_read_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(TENSORS, {"format": "pt"}))
    header = read_safetensors_header(path)
    assert header.metadata == {"format": "pt"}
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {k: tuple(t.shape) for k, t in TENSORS.items()}
    at = header.tensors[0].offset
    for tensor in header.tensors:
        assert tensor.offset == at
        at += tensor.size_bytes
        stored = path.read_bytes()[tensor.offset : at]
        assert stored == TENSORS[tensor.name].reshape(-1).view(torch.uint8).numpy().tobytes()
    assert at == path.stat().st_size


def test_what_is_written_here_is_read_there(tmp_path):
    data = {"x": torch.tensor([[1.0, 2.0]]), "y": torch.tensor([3, 4, 5], dtype=torch.int16)}
    begin = header_bytes({"x": ("F32", (1, 2), 8), "y": ("I16", (3,), 6)}, {"made": "here"})
    assert len(begin) % 8 == 0
    content = begin + b"".join(t.numpy().tobytes() for t in data.values())
    assert {name: tensor.tolist() for name, tensor in load(content).items()} == {k: t.tolist() for k, t in data.items()}
    (tmp_path / "x.safetensors").write_bytes(content)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == parse(content).metadata == {"made": "here"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 0 bytes"),
        (b"\0" * 7, "has 7 bytes"),
        (b"\0" * 8, "not JSON"),
        ((1 << 62).to_bytes(8, "little") + b"{}", r"has 10 bytes and claims a header of 4,611,686"),
        (file_of({"a": entry()}, bytes(8))[:-9], "claims a header of"),
        (file_of(b"\xff\xfe{\0}\0"), "not JSON"),
        (file_of("{}".encode("utf-16")), "not JSON"),
        (file_of(b"\xef\xbb\xbf{}"), "not JSON"),
        (file_of(b"[" * 100_000), "not JSON"),
        (file_of(b'{"a": ' + b"1" * 5000 + b"}"), "not JSON"),
        (file_of([]), "not a JSON object"),
        (file_of(b" {}"), "not a JSON object"),
        (file_of({"__metadata__": {"a": 1}}), "must give a text"),
        (file_of({"__metadata__": ["a"]}), "must give a text"),
        (file_of(b'{"a": 1, "a": 2}'), "'a' is there twice"),
        (file_of(b'{"a": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' is there twice"),
        *((file_of({"a": value}, bytes(8)), "'a' is not whole") for value in (None, 3, "x", [], {}, {"dtype": "F32"})),
        (file_of({"a": {**entry(), "data_offsets": [0]}}, bytes(8)), "'a' is not whole"),
        (file_of({"a": {**entry(), "data_offsets": 8}}, bytes(8)), "'a' is not whole"),
        (file_of({"\ud800": entry()}, bytes(8)), "is not whole"),
        (file_of({"a": entry(shape=[True, 2])}, bytes(8)), "cannot be"),
        (file_of({"a": entry(shape=[2.0])}, bytes(8)), "cannot be"),
        (file_of({"a": entry(shape=[-1, -2])}, bytes(8)), "cannot be"),
        (file_of({"a": entry(shape=["2"])}, bytes(8)), "cannot be"),
        (file_of({"a": entry(first=-8, last=0)}, bytes(8)), "cannot be"),
        (file_of({"a": entry(shape=[1] * 65, last=4)}, bytes(4)), "cannot be"),
        (file_of({"a": entry(shape=[0, 1 << 63], last=0)}), "cannot be"),
        (file_of({"a": entry("F31")}, bytes(8)), "not known here: 'F31'"),
        (file_of({"a": entry(["F32"])}, bytes(8)), "not known here"),
        (file_of({"a": entry(last=7)}, bytes(7)), r"'a', F32 of shape \(2,\), does not fill bytes 0 to 7"),
        (file_of({"a": entry("F4", [3], last=1)}, bytes(1)), "does not fill"),
        (file_of({"a": entry(shape=[1 << 62] * 64)}, bytes(8)), "does not fill"),
        (file_of({"a": entry(first=8, last=0)}, bytes(8)), "does not fill"),
        (file_of({"a": entry(), "b": entry(first=4, last=12)}, bytes(12)), "'b' begins at byte 4 .* overlaps"),
        (file_of({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
        (file_of({"a": entry(first=1, last=9)}, bytes(9)), "'a' begins at byte 1 .* leaves a gap"),
        (file_of({"a": entry()}, bytes(7)), "tensors end at byte .* of a file of"),
        (file_of({"a": entry()}, bytes(9)), "tensors end at byte .* of a file of"),
        (file_of({}, bytes(1)), "tensors end at byte"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, content, told):
    with pytest.raises(WeightsError, match=told):
        parse(content)
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"x\.safetensors is damaged or cut short: (?s:.*){told}.*; fetch it again"):
        read_safetensors_header(path)


def test_a_header_longer_than_is_allowed_is_refused_before_it_is_read():
    with pytest.raises(WeightsError, match="at most 4 are read"):
        header_end(file_of({"a": entry()}, bytes(8)), 1 << 40, longest_bytes=4)


def test_without_the_tensors_bytes_all_else_is_checked(tmp_path):
    whole = file_of({"a": entry(), "b": entry(first=8, last=16)}, bytes(16))
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole[:-12])
    assert [tensor.name for tensor in read_safetensors_header(path, header_only=True).tensors] == ["a", "b"]
    with pytest.raises(WeightsError, match="tensors end"):
        read_safetensors_header(path)
    path.write_bytes(file_of({"a": entry(), "b": entry(first=9, last=17)}))
    with pytest.raises(WeightsError, match="leaves a gap"):
        read_safetensors_header(path, header_only=True)


def test_a_file_that_is_not_there_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        read_safetensors_header(tmp_path / "absent.safetensors")


SIDES = st.integers(0, 4) | st.sampled_from([-1, 1 << 31, 1 << 62, 1 << 64])
ENTRIES = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "F4", "F99", None]),
            "shape": st.lists(SIDES, max_size=3),
            "data_offsets": st.lists(SIDES, min_size=1, max_size=3),
        }
    )
    | st.none(),
    max_size=3,
)


def check(content):
    try:
        header = parse(content)
    except WeightsError:
        return
    at = header_end(content, len(content))
    for tensor in header.tensors:
        assert tensor.offset == at
        at += tensor.size_bytes
        assert 8 * tensor.size_bytes == KIND_BITS[tensor.kind] * torch.Size(tensor.shape).numel()
    assert at == len(content)


@given(text=st.binary(max_size=64), data=st.binary(max_size=16))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_in_bounds_or_refused(text, data):
    check(text + data)
    check(file_of(text, data))
    check(file_of(b"{" + text + b"}", data))


@given(entries=ENTRIES, data=st.binary(max_size=32))
@settings(max_examples=400, deadline=None)
def test_any_entries_are_in_bounds_or_refused(entries, data):
    check(file_of(entries, data))


@given(
    sides=st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=4),
    kinds=st.lists(st.sampled_from(sorted(set(KIND_BITS) - {"F4", "F6_E2M3", "F6_E3M2"})), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
@settings(max_examples=100, deadline=None)
def test_a_right_header_is_read_in_any_order_of_its_entries(sides, kinds, order):
    at, entries = 0, {}
    for number, (shape, kind) in enumerate(zip(sides, kinds, strict=False)):
        size = torch.Size(shape).numel() * KIND_BITS[kind] // 8
        entries[str(number)] = entry(kind, shape, at, at + size)
        at += size
    shuffled = {str(number): entries[str(number)] for number in order if str(number) in entries}
    header = parse(file_of(shuffled, bytes(at)))
    assert {t.name: (t.kind, list(t.shape), t.size_bytes) for t in header.tensors} == {
        name: (e["dtype"], e["shape"], e["data_offsets"][1] - e["data_offsets"][0]) for name, e in entries.items()
    }


@pytest.mark.parametrize(
    "content",
    [
        (1 << 40).to_bytes(8, "little") + b"{}",
        (99 << 20).to_bytes(8, "little") + b"{}",
        file_of({"a": entry("U8", [1 << 40], 0, 1 << 40)}),
        file_of({"a": entry("U8", [1 << 62, 0], 0, 0), "b": entry("U8", [1 << 62], 0, 1 << 62)}),
    ],
)
def test_no_memory_is_taken_for_what_is_only_claimed(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):
            read_safetensors_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_entries_that_a_hub_told_are_held_to_the_same():
    assert [t.offset for t in place_tensors({"b": entry(first=8, last=16), "a": entry()})] == [0, 8]
    with pytest.raises(WeightsError, match="not known here"):
        place_tensors({"a": entry("F31")})
