"""The header of a safetensors file, read without trusting any number in it, and written.

Nothing is allocated beyond the header's own bytes, and every tensor lies within the file; else it is refused.
It is read by hand because `safe_open` needs a whole file on disk, and gives neither the places of the tensors nor a
message that names the faulty one.

The format: eight bytes with the header's length, the header in JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kameleon.errors import WeightsError
from kameleon.weights.tensor_info import TensorInfo

KIND_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one number of every kind in the format."""

_PREFIX_BYTES = 8  # they hold the header's length
_LONGEST_HEADER_BYTES = 100 << 20  # as the format's own library allows
_METADATA = "__metadata__"
_MOST_DIMS = 64  # as torch allows
_LARGEST = 1 << 63  # torch counts no further


@dataclass(frozen=True)
class SafetensorsHeader:
    """All tensors in the order of the file, and the file's metadata, text by text."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def header_end(prefix: bytes | memoryview, size_bytes: int, *, longest_bytes: int = _LONGEST_HEADER_BYTES) -> int:
    """The end of the header in a file of `size_bytes`, out of the file's first eight bytes.

    Raises WeightsError if it lies beyond the file, or if the header is longer than `longest_bytes`.
    """
    length = int.from_bytes(prefix[:_PREFIX_BYTES], "little")
    if len(prefix) < _PREFIX_BYTES or _PREFIX_BYTES + length > size_bytes:
        raise WeightsError(f"it has {size_bytes:,} bytes and claims a header of {length:,}")
    if length > longest_bytes:
        raise WeightsError(f"it claims a header of {length:,} bytes; at most {longest_bytes:,} are read")
    return _PREFIX_BYTES + length


def parse_header(begin: bytes, size_bytes: int | None = None) -> SafetensorsHeader:
    """The header in `begin`, a file's bytes up to `header_end`.

    `size_bytes` is the size of the whole file; without it the tensors' bytes may be missing.
    Raises WeightsError, naming the wrong tensor and the fault: text that is no JSON object, a name that comes twice,
    incomplete entries, unknown kinds, offsets that do not fit kind and shape, tensors that overlap, leave gaps or do
    not fill the file.
    """
    try:
        text = str(begin[_PREFIX_BYTES:], "utf-8")
        values = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its header is not JSON: {str(error)[:200]}") from error
    if not text.startswith("{") or not isinstance(values, dict):
        raise WeightsError("its header is not a JSON object")
    metadata = values.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"its {_METADATA} is {str(metadata)[:40]!r}; it must give a text for each name")
    tensors = place_tensors(values, len(begin))
    end = tensors[-1].offset + tensors[-1].size_bytes if tensors else len(begin)
    if size_bytes is not None and end != size_bytes:
        raise WeightsError(f"its tensors end at byte {end:,} of a file of {size_bytes:,}")
    return SafetensorsHeader(tensors, metadata)


def place_tensors(entries: Mapping[str, Any], start: int = 0) -> tuple[TensorInfo, ...]:
    """The tensors of a header's entries, in the order of their bytes, which begin at `start`.

    Raises WeightsError for the faults of entries, as `parse_header` does.
    """
    tensors = sorted((_placed(name, entry, start) for name, entry in entries.items()), key=_span)
    at = start
    for tensor in tensors:
        if tensor.offset != at:
            how = "overlaps the tensor before it" if tensor.offset < at else "leaves a gap before it"
            raise WeightsError(f"{_shown(tensor.name)} begins at byte {tensor.offset - start:,} of the data: it {how}")
        at += tensor.size_bytes
    return tuple(tensors)


def read_safetensors_header(path: Path, *, header_only: bool = False) -> SafetensorsHeader:
    """A file's header; with `header_only` the tensors' bytes may be missing.

    Raises WeightsError as `parse_header` does, and for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = file.read(_PREFIX_BYTES)
            begin += file.read(header_end(begin, size) - len(begin))
        return parse_header(begin, None if header_only else size)
    except (OSError, WeightsError) as error:
        raise WeightsError(f"{path} is damaged or cut short: {error}; fetch it again") from error


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """The start of a file that holds `tensors` one after the other, each given by kind, shape and number of bytes."""
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, (kind, shape, size) in tensors.items():
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text = text.ljust(-(-len(text) // _PREFIX_BYTES) * _PREFIX_BYTES)  # so that the numbers are aligned
    return len(text).to_bytes(_PREFIX_BYTES, "little") + text


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{_shown(name)} is there twice")
        values[name] = value
    return values


def _placed(name: str, entry: Any, start: int) -> TensorInfo:
    try:
        name.encode()
        kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"the entry of {_shown(name)} is not whole: dtype, shape, data_offsets") from error
    numbers = (*shape, first, last)
    if len(shape) > _MOST_DIMS or not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        raise WeightsError(f"{_shown(name)}, shape {str(shape)[:40]} in bytes {first!r:.20} to {last!r:.20}, cannot be")
    if not isinstance(kind, str) or kind not in KIND_BITS:
        raise WeightsError(f"{_shown(name)} is stored in a kind that is not known here: {kind!r:.40}")
    bits = KIND_BITS[kind]
    for side in shape:
        bits *= side
    if bits != 8 * (last - first):
        what = f"{_shown(name)}, {kind} of shape {str(shape)[:40]},"
        raise WeightsError(f"{what} does not fill bytes {first:,} to {last:,}, where it is said to lie")
    return TensorInfo(name, shape, kind, start + first, last - first)


def _span(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.offset, tensor.size_bytes


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}…")
