"""A folder in Hugging Face layout: config.json and one or more .safetensors files."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.weights.files import WeightFile

_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER_BYTES = 100 << 20  # as the format's own library allows


class SafetensorsFolder(WeightFile):
    """Opens every shard at once, each mapped read-only. Raises WeightsError for a missing or damaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = _shards(path)
        """Its weight files."""
        self._where: dict[str, Any] = {}
        for shard in self.shards:
            try:
                opened = safe_open(shard, "pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{shard} is damaged or cut short: {error}; fetch the base again") from error
            self._where |= dict.fromkeys(opened.keys(), opened)
        self._names = sorted(self._where)

    def names(self) -> Sequence[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._where:
            raise self._missing(name)
        return tuple(self._where[name].get_slice(name).get_shape())

    def _read(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)

    def _files(self) -> list[Path]:
        return self.shards

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        stored = []
        for shard in self.shards:
            start, header = read_safetensors_header(shard)
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                stored.append((name, entry["shape"], entry["dtype"], shard, start + first, start + last))
        # Mapped one at a time, so that the whole base is never resident a second time.
        for name, shape, kind, shard, first, last in sorted(stored):
            before = first % mmap.ALLOCATIONGRANULARITY
            with shard.open("rb") as file:
                length, offset = last - first + before, first - before
                data = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=offset) if last > first else b""
            yield name, shape, kind, memoryview(data)[before:]


def read_safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors' bytes begin, and each tensor's dtype, shape and data_offsets; the tensors need not be there.

    Raises WeightsError for what is not a header.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER_BYTES:
                raise ValueError(f"it claims a header of {length:,} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if not all({"dtype", "shape", "data_offsets"} <= entry.keys() for entry in header.values()):
            raise ValueError("an entry of it lacks dtype, shape or data_offsets")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} has no whole safetensors header: {error}; fetch it again") from error
    return 8 + length, header


def _shards(path: Path) -> list[Path]:
    index = path / _INDEX
    if not index.exists():
        whole = path / "model.safetensors"
        if not whole.exists():
            pickled = next(path.glob("*.bin"), None)
            hint = f"; {pickled.name} is a pickle, which is never opened" if pickled else ""
            raise WeightsError(f"{path} has neither model.safetensors nor {_INDEX}{hint}")
        return [whole]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is not a weight index: {error!r}; fetch the base again") from error
    if not names:
        raise WeightsError(f"{index} is not a weight index: it names no file; fetch the base again")
    missing = [name for name in names if not (path / name).exists()]
    if outside or missing:
        raise WeightsError(f"{index} names files that are not in its folder: {', '.join(outside or missing)}")
    return [path / name for name in names]
