"""A .gguf file, as llama.cpp and Ollama use it, under Hugging Face names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.ops import KINDS, Matrix, StoredMatrix
from kameleon.weights.files import WeightFile
from kameleon.weights.gguf_header import GgufHeader, read_header
from kameleon.weights.gguf_layout import GgufLayout, pair_rows, part_rows
from kameleon.weights.kinds import FLOATS
from kameleon.weights.metadata import Metadata
from kameleon.weights.tensor_info import TensorInfo

# Errors of dequantising a tensor whose numbers are nonsense.
_DAMAGED = (ValueError, LookupError, ArithmeticError, TypeError, MemoryError)
_UNKNOWN_BYTES = 1 << 62  # the size of a file that is still being fetched
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class _Part:
    """One file, mapped read-only, and its header."""

    def __init__(self, path: Path, *, header_only: bool = False) -> None:
        self.path = path
        try:
            self.bytes = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
            self.header = read_header(self.bytes.data, _UNKNOWN_BYTES if header_only else None)
        except (WeightsError, OSError) as error:
            raise WeightsError(f"{path} is not a whole GGUF file: {error}; fetch it again") from error

    def stored(self, tensor: TensorInfo) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A tensor's bytes, in the map."""
        return self.bytes[tensor.offset : tensor.offset + tensor.size_bytes]


class GgufFile(WeightFile):
    """Mapped read-only; any part of a split file (`-00001-of-00003.gguf`) opens all of them. Matrices stay quantised.

    `layouts` are by architecture; tensors of any other architecture keep their stored names. With `header_only` the
    file may end anywhere behind its header, and its tensors read as ones.
    Raises WeightsError for a damaged or truncated file and for missing parts, naming the fault.
    """

    def __init__(self, path: Path, layouts: Mapping[str, GgufLayout], *, header_only: bool = False) -> None:
        self.path, self._header_only = path, header_only
        self._parts = _all_parts(_Part(path, header_only=header_only), header_only=header_only)
        stored = [(part, tensor) for part in self._parts for tensor in part.header.tensors]
        self.metadata = Metadata(self._parts[0].header.metadata, str(path))
        """Every key of the header with its value as plain Python."""
        architecture = str(self.metadata.get("general.architecture"))
        self.layout = layouts.get(architecture) or GgufLayout(architecture)
        """How its tensors are named and ordered."""
        self._tensors = {self.layout.hf_name(t.name): (part, t) for part, t in stored}
        if len(self._tensors) < len(stored):
            raise WeightsError(f"{path} holds a tensor twice, under two names or in two parts; fetch it again")
        self._names = sorted(self._tensors)

    @property
    def first_header(self) -> tuple[GgufHeader, memoryview]:
        """The header with the metadata, and the bytes of its file."""
        return self._parts[0].header, self._parts[0].bytes.data

    @property
    def stored_tensors(self) -> Sequence[tuple[TensorInfo, memoryview]]:
        """Every tensor under its stored name with its bytes, in the order of the file."""
        return [(tensor, part.stored(tensor).data) for part in self._parts for tensor in part.header.tensors]

    def names(self) -> Sequence[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.info(name).shape[::-1]

    def info(self, name: str) -> TensorInfo:
        """How a tensor is stored. Raises WeightsError for an unknown name."""
        if name not in self._tensors:
            raise self._missing(name)
        return self._tensors[name][1]

    @property
    def is_whole(self) -> bool:
        """Whether the file holds all bytes of all tensors; it always does unless it was opened with `header_only`."""
        return all(t.offset + t.size_bytes <= len(part.bytes) for part, t in self._tensors.values())

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """A weight as the file stores it: a view of the mapped file.

        Plain numbers in Hugging Face's order, or at odd bytes, are a tensor. Kinds of blocks without a kernel are
        dequantised to fp32.
        """
        if name not in self._tensors or self.shape(name) != shape:
            return self.tensor(name, shape)
        (part, stored), half = self._tensors[name], self._rotary_half(name)
        at_odd_bytes = stored.kind in FLOATS and stored.offset % FLOATS[stored.kind].itemsize
        if stored.kind not in KINDS or (stored.kind in FLOATS and not half) or at_odd_bytes:
            return self.tensor(name, shape)
        return StoredMatrix(stored.kind, _view(part.stored(stored)).view(shape[0], -1), shape[1], half)

    def _read(self, name: str) -> Tensor:
        if self._header_only:
            return torch.ones(self.shape(name))
        part, stored = self._tensors[name]
        rows = part.stored(stored).reshape(*stored.shape[:0:-1], -1)
        try:
            if stored.kind in FLOATS:
                tensor = _view(rows).view(FLOATS[stored.kind])
            else:
                with np.errstate(invalid="raise", over="raise"):
                    tensor = torch.from_numpy(gguf.dequantize(rows, gguf.GGMLQuantizationType[stored.kind]))
            return part_rows(tensor.reshape(self.shape(name)), self._rotary_half(name))
        except (*_DAMAGED, RuntimeError) as error:  # RuntimeError: torch's for sizes, NotImplementedError for kinds
            raise WeightsError(
                f"{name} ({stored.kind}) in {part.path} cannot be read: {error or type(error).__name__}"
            ) from error

    def _rotary_half(self, name: str) -> int:
        """Half of a head's size if the file keeps the rows of this tensor in pairs, else 0."""
        key = self.layout.heads_key(name)
        if key is None:
            return 0
        at = self.layout.architecture
        heads = self.metadata.size(f"{at}.attention.head_count")  # also the default for key and value heads
        count = self.metadata.size(f"{at}.{key}", heads)
        rows = self.shape(name)[0]
        if rows % (2 * count):
            raise WeightsError(f"{name} in {self.path} has {rows} rows, which are not {count} heads of an even size")
        return rows // (2 * count)

    def stored_order(self, name: str, rows: Tensor) -> Tensor:
        """The rows of the tensor `name` in the order of the file."""
        return pair_rows(rows, self._rotary_half(name))

    def _files(self) -> list[Path]:
        return [part.path for part in self._parts]

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        stored = sorted(self._tensors.values(), key=lambda one: one[1].name)
        return ((t.name, t.shape, t.kind, part.stored(t).data) for part, t in stored)


def _all_parts(given: _Part, *, header_only: bool) -> list[_Part]:
    """The parts of a split file in order; each must have the number that its name says."""
    count, named = given.header.metadata.get("split.count", 1), _PART.fullmatch(given.path.name)
    if count in (0, 1):
        return [given]
    if named is None or count != int(named[3]):
        raise WeightsError(f"{given.path} is one of {count} parts; their names must end in -00001-of-{count:05}.gguf")
    paths = [given.path.with_name(f"{named[1]}-{number:05}-of-{named[3]}.gguf") for number in range(1, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise WeightsError(f"{given.path} is one of {count} parts, and beside it are not: {', '.join(missing)}")
    parts = [given if path == given.path else _Part(path, header_only=header_only) for path in paths]
    for number, part in enumerate(parts):
        said = part.header.metadata.get("split.no"), part.header.metadata.get("split.count")
        if said != (number, count):
            raise WeightsError(f"{part.path} says it is part {said[0]} of {said[1]}, not {number} of {count}")
    held, listed = sum(len(p.header.tensors) for p in parts), parts[0].header.metadata.get("split.tensors.count")
    if held != listed:
        raise WeightsError(f"the parts of {given.path} hold {held} tensors; they say {listed}; fetch them again")
    return parts


def whole_name(path: Path) -> str:
    """The name of a `.gguf` file without its part's number, so that all parts of a split file have the same."""
    named = _PART.fullmatch(path.name)
    return f"{named[1]}-of-{named[3]}.gguf" if named else path.name


def _view(mapped: np.ndarray[Any, Any]) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that it has no read-only tensors; nothing here writes to a weight.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(mapped))
