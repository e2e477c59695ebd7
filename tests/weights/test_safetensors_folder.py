"""Folders in Hugging Face layout: whole, sharded, and damaged in every way seen in the wild."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from kameleon.errors import WeightsError
from kameleon.model import open_weights
from kameleon.weights import SafetensorsFolder

TENSORS = {
    "model.embed_tokens.weight": torch.arange(12.0).reshape(4, 3),
    "model.layers.0.mlp.up_proj.weight": torch.arange(6.0).reshape(2, 3).bfloat16(),
    "model.norm.weight": torch.tensor([1.0, -2.0, 0.5]).half(),
}


def write_whole(folder, tensors=TENSORS):
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def write_sharded(folder, tensors=TENSORS):
    """One tensor a shard, in reverse order of names."""
    folder.mkdir(exist_ok=True)
    where = {}
    for number, name in enumerate(sorted(tensors, reverse=True), 1):
        where[name] = f"model-{number:05}-of-{len(tensors):05}.safetensors"
        save_file({name: tensors[name]}, folder / where[name])
    write_index(folder, where)
    return folder


def write_index(folder, where):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("write", [write_whole, write_sharded])
def test_tensors_come_back_as_they_were_stored(tmp_path, write):
    weights = open_weights(write(tmp_path / "base"))
    assert isinstance(weights, SafetensorsFolder)
    assert list(weights.names()) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert weights.shape(name) == tuple(tensor.shape)
        got = weights.tensor(name, tuple(tensor.shape))
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor)


def test_numbers_at_odd_bytes_are_put_where_kernels_may_read_them(tmp_path):
    """The format's own writer aligns them, others need not."""
    path = write_whole(tmp_path / "base") / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes((end - 7).to_bytes(8, "little") + content[8:end] + b" " + content[end:])
    weights = open_weights(path.parent)
    for name, tensor in TENSORS.items():
        got = weights.tensor(name)
        assert got.data_ptr() % got.itemsize == 0
        assert torch.equal(got, tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.int8])
def test_a_matrix_of_a_type_that_nothing_multiplies_is_named(tmp_path, dtype):
    name = "model.embed_tokens.weight"
    weights = open_weights(write_whole(tmp_path / "base", {name: TENSORS[name].to(dtype)}))
    with pytest.raises(WeightsError, match=rf"embed_tokens\.weight in .* is stored in {str(dtype)[6:]}; only fp32"):
        weights.matrix(name, (4, 3))


def test_a_missing_tensor_is_named(tmp_path):
    weights = open_weights(write_whole(tmp_path / "base"))
    for ask in (weights.shape, weights.tensor):
        with pytest.raises(WeightsError, match=r"no tensor model\.layers\.9\.x .*holds 3"):
            ask("model.layers.9.x")


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path):
    weights = open_weights(write_whole(tmp_path / "base"))
    with pytest.raises(WeightsError, match="4 × 3; the config says 3 × 4"):
        weights.tensor("model.embed_tokens.weight", (3, 4))


def test_a_missing_shard_is_named(tmp_path):
    folder = write_sharded(tmp_path / "base")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors"):
        SafetensorsFolder(folder)


def test_a_tensor_in_two_shards_is_refused_with_both(tmp_path):
    folder = write_sharded(tmp_path / "base")
    twin = "model-00002-of-00003.safetensors"
    save_file(dict(TENSORS), folder / twin)
    with pytest.raises(WeightsError, match=rf"holds model\.norm\.weight twice, in model-00001.* and {twin}"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/inside.safetensors", "{absolute}"])
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path, name):
    folder = write_sharded(tmp_path / "base")
    name = name.replace("{absolute}", str(tmp_path / "outside.safetensors"))
    (folder / "sub").mkdir()
    for place in (tmp_path / "outside.safetensors", folder / "sub" / "inside.safetensors"):
        save_file({"a": torch.zeros(1)}, place)
    write_index(folder, {"a": name})
    with pytest.raises(WeightsError, match="not in its folder"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "{}"),
        *(
            f'{{"weight_map": {value}}}'
            for value in ("[]", "{}", '{"a": 3}', '{"a": ["b"]}', '{"a": ""}', '{"a": ".."}')
        ),
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path, text):
    folder = write_whole(tmp_path / "base")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"index\.json|damaged"):
        SafetensorsFolder(folder)


def test_an_index_that_is_not_text_is_refused(tmp_path):
    folder = write_whole(tmp_path / "base")
    (folder / "model.safetensors.index.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(WeightsError, match=r"not a weight index"):
        SafetensorsFolder(folder)


WHOLE = save(TENSORS)


@given(cut=st.integers(0, len(WHOLE) - 1))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    (folder / "model.safetensors").write_bytes(WHOLE[:cut])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged or cut short"):
        SafetensorsFolder(folder)


def test_a_pickle_is_never_opened_and_the_message_says_so(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle, which is never opened"):
        SafetensorsFolder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("name", ["base.bin", "absent.gguf", "absent"])
def test_other_files_are_no_base(tmp_path, name):
    if name == "base.bin":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"neither a folder in Hugging Face layout nor a \.gguf file"):
        open_weights(tmp_path / name)
