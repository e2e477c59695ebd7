"""A base in several GGUF files is the same as in one."""

import gguf
import numpy as np
import pytest
import torch
from tiny import write_out

from kameleon.errors import WeightsError
from kameleon.model import open_gguf, open_weights
from kameleon.weights import GgufFile


def write(path, split_max_tensors=0):
    writer = gguf.GGUFWriter(path, "qwen2", split_max_tensors=split_max_tensors)
    writer.add_block_count(1)
    for number in range(5):
        numbers = np.random.default_rng(number).standard_normal((4, 32)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if number % 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"blk.{number}.ffn_up.weight", gguf.quantize(numbers, kind), raw_dtype=kind)
    write_out(writer)


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "split").mkdir()
    write(tmp_path / "split" / "base.gguf", split_max_tensors=2)
    return sorted((tmp_path / "split").iterdir())


def test_any_part_stands_for_the_whole(tmp_path, parts):
    write(tmp_path / "whole.gguf")
    whole = open_weights(tmp_path / "whole.gguf")
    assert [part.name for part in parts] == [f"base-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for part in parts:
        split = open_weights(part)
        assert isinstance(split, GgufFile)
        assert split.names() == whole.names()
        assert all(torch.equal(split.tensor(name), whole.tensor(name)) for name in whole.names())
        assert split.metadata["general.architecture"] == "qwen2"
        assert split.fingerprint() == whole.fingerprint()


def test_a_missing_part_is_named(parts):
    parts[1].unlink()
    with pytest.raises(WeightsError, match=r"one of 3 parts, and beside it are not: base-00002-of-00003\.gguf"):
        open_gguf(parts[0])


def test_a_part_under_another_name_says_how_they_must_be_named(parts):
    renamed = parts[0].rename(parts[0].with_name("base.gguf"))
    with pytest.raises(WeightsError, match=r"names must end in -00001-of-00003\.gguf"):
        open_gguf(renamed)


def test_a_part_of_another_place_is_refused(parts):
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(WeightsError, match=r"says it is part 1 of 3, not 2 of 3"):
        open_gguf(parts[0])


def test_parts_must_hold_as_many_tensors_as_they_say(parts):
    content = parts[0].read_bytes()
    at = content.index(b"split.tensors.count") + len("split.tensors.count") + 4
    parts[0].write_bytes(content[:at] + bytes([9]) + content[at + 1 :])
    with pytest.raises(WeightsError, match="hold 5 tensors; they say 9"):
        open_gguf(parts[0])
