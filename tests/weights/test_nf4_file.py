"""A base in Hugging Face layout seen through NF4: packed once, mapped, and another base than its source."""

import pytest
import torch
from safetensors.torch import save_file
from tiny import save_base

import kameleon
from kameleon import home
from kameleon.errors import SettingError, WeightsError
from kameleon.model import open_weights
from kameleon.ops import Segments, StoredMatrix, native, nf4
from kameleon.weights import Nf4File, SafetensorsFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KAMELEON_HOME", str(tmp_path / "home"))
    save_base(tmp_path / "base", "qwen2")
    return tmp_path / "base"


def test_matrices_are_packed_once_and_vectors_stay(folder):
    source, told = SafetensorsFolder(folder), []
    weights = Nf4File(source, lambda *progress: told.append(progress))
    name, shape = "model.layers.0.self_attn.q_proj.weight", (64, 64)
    matrix = weights.matrix(name, shape)
    assert isinstance(matrix, StoredMatrix)
    assert (matrix.kind, matrix.shape) == ("NF4", shape)
    assert matrix.data.equal(nf4.pack(source.tensor(name)))
    assert weights.tensor("model.norm.weight").equal(source.tensor("model.norm.weight"))
    assert told[-1][1] == told[-1][2] > 0
    written = weights.packed_path.stat().st_mtime_ns
    assert Nf4File(source, pytest.fail).matrix(name, shape).data.equal(matrix.data)
    assert weights.packed_path.stat().st_mtime_ns == written


def test_rows_that_are_not_whole_blocks_stay_as_they_are(folder):
    down = open_weights(folder, "nf4").matrix("model.layers.0.mlp.down_proj.weight", (64, 96))
    assert isinstance(down, torch.Tensor)


def test_it_computes_nearly_what_its_source_does_and_is_another_base(folder):
    plain, packed = (kameleon.load(str(folder), torch.float32, quantize=q).base for q in (None, "nf4"))
    assert packed.fingerprint == f"nf4:{plain.fingerprint}"
    assert packed.name.endswith("in nf4")
    if native.available():
        assert packed.decoder.layers[0].weight("qkv").kinds == ("NF4",) * 3
    tokens, segments = torch.arange(20), Segments((20,))
    a, b = (base.decoder.logits(base.decoder.hidden(tokens, segments)) for base in (plain, packed))
    assert torch.cosine_similarity(a, b).mean() > 0.9
    assert not torch.equal(a, b)


def test_numbers_that_are_not_finite_are_refused_and_nothing_is_kept(folder):
    tensors = {name: SafetensorsFolder(folder).tensor(name).clone() for name in SafetensorsFolder(folder).names()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.inf
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj.*not finite"):
        open_weights(folder, "nf4")
    assert not list((folder.parent / "home").rglob("*.safetensors"))


def test_a_cache_that_takes_no_file_is_named_and_nothing_is_kept(folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(home.os, "fsync", full)
    with pytest.raises(SettingError, match=r"home/cache/nf4: .*No space left.*KAMELEON_HOME"):
        open_weights(folder, "nf4")
    assert [file.name for file in (folder.parent / "home" / "cache" / "nf4").iterdir()] == [".lock"]


def test_what_a_kill_left_of_a_packing_is_gone_after_the_next(folder):
    cache = folder.parent / "home" / "cache" / "nf4"
    left = cache / ".kameleon-0123456789abcdef"
    left.mkdir(parents=True)
    (left / ".held").touch()
    (left / "new").write_bytes(b"half")
    packed = Nf4File(SafetensorsFolder(folder)).packed_path
    note = f".{packed.name}.fingerprint.json"
    assert {file.name for file in cache.iterdir()} == {".lock", packed.name, note}


def test_a_packed_copy_with_another_byte_is_refused(folder):
    packed = Nf4File(SafetensorsFolder(folder)).packed_path
    data = bytearray(packed.read_bytes())
    data[-100] ^= 1
    packed.write_bytes(data)
    with pytest.raises(WeightsError, match="do not have their checksum; delete it"):
        Nf4File(SafetensorsFolder(folder))


@pytest.mark.parametrize("step", [0, -1])
def test_a_base_replaced_while_it_is_packed_is_not_kept_under_the_old_ones_fingerprint(folder, step):
    source, weights = SafetensorsFolder(folder), folder / "model.safetensors"
    others = {name: source.tensor(name) + 1 for name in source.names()}
    old = source.fingerprint()

    def replaced(what, done, total):
        if done == (0 if step == 0 else total - 1):
            save_file(others, folder / "fresh")
            (folder / "fresh").replace(weights)

    with pytest.raises(WeightsError, match="was changed while it was packed"):
        Nf4File(source, replaced)
    assert not list((folder.parent / "home").rglob("*.safetensors"))
    assert Nf4File(SafetensorsFolder(folder)).fingerprint() != f"nf4:{old}"


def test_only_nf4_and_only_where_numbers_are_not_packed_yet(folder, tmp_path):
    with pytest.raises(SettingError, match="'int3'; it must be nf4"):
        open_weights(folder, "int3")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(SettingError, match="in its own blocks already"):
        open_weights(tmp_path / "a.gguf", "nf4")
