"""The header of a base: its config, and how each tensor is stored. The weights need not be on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kameleon.bases import HeaderFiles, locate_header
from kameleon.errors import SettingError, WeightsError
from kameleon.model import DecoderConfig, groups, module_shapes, open_gguf
from kameleon.model.files import read_json
from kameleon.model.gguf_config import config_from_gguf
from kameleon.model.hf_config import config_from_hf
from kameleon.ops import nf4
from kameleon.text import ChatTemplate
from kameleon.text.tokenizer import load_tokenizer
from kameleon.weights import ModuleName, read_safetensors_header, shard_names
from kameleon.weights.kinds import FLOATS
from kameleon.weights.safetensors_header import KIND_BITS


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as its file holds it: shape in Hugging Face order, kind ("BF16", "Q4_K", "NF4"), bytes."""

    shape: tuple[int, ...]
    kind: str
    size_bytes: int


@dataclass(frozen=True, eq=False)
class BaseHeader:
    """A base without its weights. `tensors` by Hugging Face names, as they will be mapped.

    `path` has the tokenizer. `fetch_bytes` are still to be fetched, `cache_bytes` will be written when the base is
    packed. `packed_file`: a GGUF file, which is packed already.
    """

    name: str
    config: DecoderConfig = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    packed_file: bool
    path: Path | None = None
    fetch_bytes: int = 0
    cache_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def in_nf4(self) -> BaseHeader:
        """The same base with its matrices in NF4. Raises SettingError for a GGUF file."""
        if self.packed_file:
            raise SettingError(f"{self.name} is stored in its own blocks already; leave quantize out")
        tensors = {name: _as_nf4(tensor) for name, tensor in self.tensors.items()}
        packed = sum(t.size_bytes for t in tensors.values() if t.kind == "NF4")
        return replace(self, tensors=tensors, cache_bytes=packed)

    def layer_kinds(self, layer: int) -> tuple[str, ...]:
        """The kinds of the matrices of a layer, in the order of their groups."""
        members = (member for group in groups(self.config) for member in group.members)
        return tuple(self.tensors[ModuleName(layer, member.name).weight].kind for member in members)

    def template(self) -> ChatTemplate:
        """The base's chat template with its tokenizer. Raises WeightsError where they are not there yet."""
        if self.path is None:
            raise WeightsError(
                f"{self.name} stands for a shape, without a tokenizer: leave the rows out, or name a folder, a .gguf "
                "file or a hub id"
            )
        weights = open_gguf(self.path, header_only=True) if self.packed_file else None
        return ChatTemplate(load_tokenizer(self.path, weights))

    def usual_layer(self) -> int:
        """The first layer with the most frequent kinds of matrices."""
        kinds = [self.layer_kinds(layer) for layer in range(self.config.num_layers)]
        return kinds.index(Counter(kinds).most_common(1)[0][0])


def _as_nf4(tensor: StoredTensor) -> StoredTensor:
    if len(tensor.shape) != 2 or tensor.shape[1] % nf4.BLOCK:
        return tensor
    return StoredTensor(tensor.shape, "NF4", tensor.shape[0] * nf4.row_bytes(tensor.shape[1]))


@lru_cache(maxsize=4)  # the same object each time, since `calibrate` keeps its result for a header object
def read_base_header(ref: str, quantize: str | None = None) -> BaseHeader:
    """The header of the base that `ref` names; of one on the hub, only the small files and headers are fetched.

    A folder needs config.json; shards that are missing are assumed to be in the config's type. Of a `.gguf` file the
    first megabytes are enough. Raises FetchError, UnsupportedArchitectureError, WeightsError, SettingError.
    """
    files = locate_header(ref)
    header = _of_gguf(ref, files.path) if files.path.is_file() else _of_folder(ref, files)
    missing = [name for name in matrix_shapes(header.config) if name not in header.tensors]
    if missing:
        raise WeightsError(
            f"the header of {ref} lacks {missing[0]} (and {len(missing) - 1} more); fetch the base again"
        )
    return header.in_nf4() if quantize else header


def matrix_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every matrix that a base of this config has."""
    vocab = (config.vocab_size, config.hidden_size)
    shapes = {"model.embed_tokens.weight": vocab}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = vocab
    return shapes | {f"{module}.weight": shape for module, shape in module_shapes(config).items()}


def stored_as(config: DecoderConfig, kind: str) -> dict[str, StoredTensor]:
    """Every matrix of a base of this config in a plain kind."""
    return {
        name: StoredTensor(shape, kind, shape[0] * shape[1] * KIND_BITS[kind] // 8)
        for name, shape in matrix_shapes(config).items()
    }


def _of_folder(ref: str, files: HeaderFiles) -> BaseHeader:
    folder = files.path
    values = read_json(folder / "config.json")
    config = config_from_hf(values)
    shards = [folder / name for name in shard_names(folder)]
    here = [shard for shard in shards if shard.exists()]
    listed = list(files.tensors)
    for shard in here:
        listed += read_safetensors_header(shard, header_only=True).tensors
    tensors = {one.name: StoredTensor(one.shape, one.kind, one.size_bytes) for one in listed}
    whole = not files.tensors and here == shards
    if not whole and not files.tensors:
        tensors = stored_as(config, _kind_of_config(values)) | tensors
    fetch = 0 if whole else sum(tensor.size_bytes for tensor in tensors.values())
    return BaseHeader(ref, config, tensors, packed_file=False, path=folder, fetch_bytes=fetch)


def _kind_of_config(values: Mapping[str, Any]) -> str:
    named = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    kinds = {str(dtype).removeprefix("torch."): kind for kind, dtype in FLOATS.items()}
    if named not in kinds:
        raise WeightsError(f"the base's config says its numbers are {named}; expected {', '.join(kinds)}")
    return kinds[named]


def _of_gguf(ref: str, path: Path) -> BaseHeader:
    file = open_gguf(path, header_only=True)
    stored = {name: file.info(name) for name in file.names()}
    tensors = {name: StoredTensor(one.shape[::-1], one.kind, one.size_bytes) for name, one in stored.items()}
    fetch = 0 if file.is_whole else sum(tensor.size_bytes for tensor in tensors.values())
    return BaseHeader(ref, config_from_gguf(file), tensors, packed_file=True, path=path, fetch_bytes=fetch)
