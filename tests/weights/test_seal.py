"""Files with a checksum of all their bytes."""

import pytest
import torch
from safetensors.torch import save_file

from kameleon.errors import WeightsError
from kameleon.home import atomic_write
from kameleon.weights.safetensors_header import header_bytes
from kameleon.weights.seal import UNSEALED, check_seal, seal


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "sealed.safetensors"
    with atomic_write(path) as file:
        file.write(header_bytes({"a": ("F32", (6,), 24), "b": ("U8", (2, 2), 4)}, {"step": "3", **UNSEALED}))
        file.write(bytes(range(28)))
        seal(file)
    return path


def test_a_whole_file_gives_its_metadata(sealed):
    assert check_seal(sealed)["step"] == "3"


def test_every_byte_that_changes_is_found(sealed):
    whole = sealed.read_bytes()
    for place in range(len(whole)):
        for change in (0x01, 0x02, 0x20, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= change
            sealed.write_bytes(damaged)
            with pytest.raises(WeightsError):
                check_seal(sealed)


def test_a_file_that_is_cut_or_grew_is_found(sealed):
    whole = sealed.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:100], b""):
        sealed.write_bytes(damaged)
        with pytest.raises(WeightsError):
            check_seal(sealed)


def test_a_file_of_an_earlier_version_has_no_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "early", {"step": "3"})
    assert check_seal(tmp_path / "early") == {"step": "3"}
