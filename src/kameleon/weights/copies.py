"""Copies of weight files with some matrices replaced; everything else keeps its bytes."""

from __future__ import annotations

import json
import math
import mmap
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from kameleon.errors import SettingError, WeightsError
from kameleon.home import atomic_folder, atomic_write, read_text
from kameleon.weights.gguf_file import GgufFile
from kameleon.weights.kinds import FLOATS
from kameleon.weights.names import EMBEDDING, HEAD
from kameleon.weights.safetensors_folder import SafetensorsFolder
from kameleon.weights.safetensors_header import header_bytes, read_safetensors_header
from kameleon.weights.tensor_info import TensorInfo

Fresh = Mapping[str, Callable[[], Tensor]]
"""By Hugging Face name, a function that makes the fp32 matrix which replaces a tensor. If there is one for the head and
the source uses its embedding as head, the copy gets a head of the embedding's type and size, and its config says so."""

WRITABLE = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""The kinds of GGUF blocks that the `gguf` package can write."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".index.json")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_F16 = 65504.0  # which is also the type of the scales of packed blocks
_MORE_TEMPLATES = "additional_chat_templates/*.jinja"  # transformers keeps all but the default there
_FILE_TYPE, _UINT32 = "general.file_type", 4
_EMBEDDING, _HEAD = f"{EMBEDDING}.weight", f"{HEAD}.weight"


def as_stored(tensor: Tensor, kind: str, name: str) -> bytes:
    """An fp32 matrix [rows, columns] in one of `WRITABLE`; rows are whole blocks.

    Raises WeightsError, with its `name`, where a number is too large for the kind and would be infinite in the file.
    """
    if kind in FLOATS:
        stored = _bytes(tensor.to(FLOATS[kind]))
    else:
        with np.errstate(all="ignore"):  # what overflows is refused below
            stored = gguf.quantize(tensor.contiguous().numpy(), gguf.GGMLQuantizationType[kind]).tobytes()
    largest = float(tensor.abs().max())
    if (
        largest > _LARGEST_F16
        and (tensor.isfinite() & ~read_stored(stored, kind, tuple(tensor.shape)).isfinite()).any()
    ):
        raise WeightsError(
            f"{name} holds numbers up to {largest:.3g}, which would be infinite as {kind}; write it as "
            f"{'F32' if kind == 'BF16' else 'BF16 or F32'}, which hold larger ones"
        )
    return stored


def read_stored(stored: bytes | memoryview, kind: str, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_stored`, in fp32."""
    if kind in FLOATS:
        return torch.frombuffer(bytearray(stored), dtype=FLOATS[kind]).view(shape).float()
    rows = np.frombuffer(stored, np.uint8).reshape(shape[0], -1)
    with np.errstate(all="ignore"):
        return torch.from_numpy(gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])).view(shape)


def copy_folder(
    source: SafetensorsFolder, target: Path, fresh: Fresh, *, kind: str | None = None, readme: str | None = None
) -> None:
    """Write the whole model, in shards like those of `source`, to a new folder that is complete or does not exist.

    Replaced tensors are rounded once to their stored type; with a `kind` ("BF16", "F16", "F32") all tensors are of that
    type, and the config says so. Everything beside the weights (config, tokenizer, template, licence) is copied; a
    `readme` takes the place of README.md. Raises WeightsError for a type that cannot be written and for numbers too
    large for theirs, SettingError if the disk is too small.
    """
    shards, untied = source.shards, _unties(source, fresh)
    beside = [f for f in source.path.iterdir() if f.is_file() and not f.name.startswith(".")]
    beside = [f for f in beside if f.name.endswith("safetensors.index.json") or not f.name.endswith(_WEIGHTS)]
    beside += source.path.glob(_MORE_TEMPLATES)
    grown = (_size_bytes(t, kind) - t.size_bytes for shard in shards for t in read_safetensors_header(shard).tensors)
    check_space(target, sum(f.stat().st_size for f in [*shards, *beside]) + sum(grown))
    with atomic_folder(target) as folder:
        for shard in shards:
            with (folder / shard.name).open("wb") as file:
                for piece in _shard_pieces(shard, fresh, untied=untied, kind=kind):
                    file.write(piece)
        for file in beside:
            copy = folder / file.relative_to(source.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        if readme is not None:
            (folder / "README.md").write_bytes(readme.encode(errors="replace"))
        changes: dict[str, Any] = {"dtype": _DTYPES[kind], "torch_dtype": _DTYPES[kind]} if kind else {}
        if _HEAD in fresh:
            changes["tie_word_embeddings"] = False
        _change_config(folder, changes)
        if untied:
            _list_head(folder)


def _unties(source: SafetensorsFolder | GgufFile, fresh: Fresh) -> bool:
    """Whether the copy gets a head of its own while the source uses its embedding."""
    return _HEAD in fresh and _HEAD not in source.names()


def _change_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """Write into the copy's config what is otherwise than in the source's."""
    config = json.loads(read_text(folder / "config.json"))
    # Of the type's two names the older is written only where it stands already.
    # Older programs write there where the source lay on their machine.
    changed = {key: value for key, value in config.items() if key != "_name_or_path"}
    changed |= {key: value for key, value in changes.items() if key != "torch_dtype" or key in config}
    if changed != config:
        (folder / "config.json").write_text(json.dumps(changed, indent=2) + "\n")


def _list_head(folder: Path) -> None:
    """Write into the copy's index where its own head is."""
    for index in folder.glob("*.safetensors.index.json"):
        places = json.loads(read_text(index))
        places["weight_map"][_HEAD] = places["weight_map"][_EMBEDDING]
        index.write_text(json.dumps(places, indent=2) + "\n")


def _size_bytes(tensor: TensorInfo, kind: str | None) -> int:
    """The size of the tensor in a folder of that kind; what is no float keeps its type."""
    return math.prod(tensor.shape) * FLOATS[kind].itemsize if kind and tensor.kind in FLOATS else tensor.size_bytes


def _shard_pieces(shard: Path, fresh: Fresh, *, untied: bool, kind: str | None) -> Iterator[bytes | memoryview]:
    """The file's bytes from first to last. Without a new head or kind the header stays."""
    header = read_safetensors_header(shard)
    with shard.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    tensors = list(header.tensors)
    embedding = next((tensor for tensor in tensors if tensor.name == _EMBEDDING), None)
    if untied and embedding:
        tensors.append(replace(embedding, name=_HEAD))
    kinds = {tensor.name: kind if kind and tensor.kind in FLOATS else tensor.kind for tensor in tensors}
    if kind or len(tensors) > len(header.tensors):
        listed = {t.name: (kinds[t.name], t.shape, _size_bytes(t, kind)) for t in tensors}
        yield header_bytes(listed, header.metadata)
    else:
        yield data[: len(data) - sum(tensor.size_bytes for tensor in tensors)]
    for tensor in tensors:
        raw = data[tensor.offset : tensor.offset + tensor.size_bytes]
        if tensor.name in fresh and tensor.kind not in FLOATS:
            raise WeightsError(f"{tensor.name} in {shard} is stored as {tensor.kind}, which cannot be written here")
        if tensor.name not in fresh and kinds[tensor.name] == tensor.kind:
            yield raw
        else:
            made = fresh[tensor.name]() if tensor.name in fresh else read_stored(raw, tensor.kind, tensor.shape)
            yield as_stored(made, kinds[tensor.name], tensor.name)


def copy_gguf(source: GgufFile, target: Path, *, kind: str, fresh: Fresh, whole: bool = False) -> None:
    """Write one `.gguf` file, complete or not at all: replaced matrices in `kind`, everything else with its bytes.

    With `whole` the other matrices are written in `kind` too; norms and biases keep their bytes. The metadata is
    copied, apart from the file's kind and the keys of split files.
    Raises SettingError for a kind that cannot be written, or if the disk is too small.
    """
    hf_name = source.layout.hf_name
    if whole:
        others = (t for t, _ in source.stored_tensors if len(t.shape) == 2 and t.kind != kind)
        fresh = {name: partial(_plain, source, name) for name in (hf_name(t.name) for t in others)} | dict(fresh)
    stored = list(source.stored_tensors)
    if _unties(source, fresh):
        at = next(i for i, (tensor, _) in enumerate(stored) if hf_name(tensor.name) == _EMBEDDING)
        stored.insert(at + 1, (replace(stored[at][0], name="output.weight"), stored[at][1]))
    plans: list[tuple[TensorInfo, str, int]] = []  # each tensor, its kind and its size in the copy
    for tensor, _ in stored:
        stays = hf_name(tensor.name) not in fresh or len(tensor.shape) == 1  # a bias keeps its kind and size
        plans.append((tensor, tensor.kind, tensor.size_bytes) if stays else _plan(tensor, kind))
    check_space(target, sum(size for _, _, size in plans))
    header, header_bytes = source.first_header
    keys = {key: bytes(header_bytes[span]) for key, span in header.spans.items() if not key.startswith("split.")}
    if _FILE_TYPE in keys:
        name = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
        keys[_FILE_TYPE] = _text(_FILE_TYPE) + struct.pack("<II", _UINT32, gguf.LlamaFileType[name])
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(plans), len(keys)) + b"".join(keys.values())
    at = 0
    for tensor, stored_kind, size in plans:
        code, dims = gguf.GGMLQuantizationType[stored_kind], len(tensor.shape)
        begin += _text(tensor.name) + struct.pack(f"<I{dims}QIQ", dims, *tensor.shape, code, at)
        at = _aligned(at + size, header.alignment)
    with atomic_write(target) as file:
        file.write(begin.ljust(_aligned(len(begin), header.alignment), b"\0"))
        for (tensor, data), (_, stored_kind, size) in zip(stored, plans, strict=True):
            name = hf_name(tensor.name)
            file.write(
                as_stored(source.stored_order(name, fresh[name]()), stored_kind, name) if name in fresh else data
            )
            file.write(b"\0" * (_aligned(size, header.alignment) - size))


def _plain(source: GgufFile, name: str) -> Tensor:
    return source.tensor(name).float()


def _plan(tensor: TensorInfo, kind: str) -> tuple[TensorInfo, str, int]:
    if kind not in WRITABLE:
        raise SettingError(f"kind is {kind!r}; it must be one of {', '.join(WRITABLE)}")
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if tensor.shape[0] % block:
        raise SettingError(f"{tensor.name} has rows of {tensor.shape[0]} numbers, not whole {kind} blocks of {block}")
    return tensor, kind, math.prod(tensor.shape) // block * block_bytes


def check_space(target: Path, size_bytes: int) -> None:
    """Raise SettingError unless the disk of `target` has room for `size_bytes`."""
    place = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if size_bytes > free:
        raise SettingError(f"{target} needs {size_bytes / 1e6:,.0f} MB; its disk has {free / 1e6:,.0f} MB free")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
