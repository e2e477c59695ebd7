"""A folder in Hugging Face layout: config.json and one or more .safetensors files."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.home import read_text
from kameleon.weights.files import WeightFile
from kameleon.weights.safetensors_header import read_safetensors_header
from kameleon.weights.tensor_info import TensorInfo

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


class SafetensorsFolder(WeightFile):
    """All shards, mapped read-only. Raises WeightsError for a missing or damaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = _shards(path)
        """Its weight files."""
        self._where: dict[str, _Place] = {}
        for shard in self.shards:
            listed = read_safetensors_header(shard).tensors
            try:
                opened = safe_open(shard, "pt")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{shard} is damaged or cut short: {error}; fetch the base again") from error
            for info in listed:
                if info.name in self._where:
                    both = f"{self._where[info.name].shard.name} and {shard.name}"
                    raise WeightsError(f"{path} holds {info.name} twice, in {both}; fetch the base again")
                self._where[info.name] = _Place(shard, opened, info)
        self._names = sorted(self._where)

    def names(self) -> Sequence[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._where:
            raise self._missing(name)
        return self._where[name].info.shape

    def _read(self, name: str) -> Tensor:
        return self._where[name].opened.get_tensor(name)

    def _files(self) -> list[Path]:
        return self.shards

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        # Headers are read again, since the files may have changed. Tensors are mapped one at a time, so that the whole
        # base is never resident twice.
        now = {info.name: (shard, info) for shard in self.shards for info in read_safetensors_header(shard).tensors}
        for name, (shard, info) in sorted(now.items()):
            before = info.offset % mmap.ALLOCATIONGRANULARITY
            length, offset = before + info.size_bytes, info.offset - before
            with shard.open("rb") as file:
                whole = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=offset) if length else b""
            yield name, info.shape, info.kind, memoryview(whole)[before:]


class _Place(NamedTuple):
    shard: Path
    opened: Any
    """The shard, mapped."""
    info: TensorInfo


def shard_names(folder: Path) -> list[str]:
    """The weight files that a folder in Hugging Face layout must have: those in its index, or the only one.

    Raises WeightsError for an index that is damaged, or that names a file outside of the folder.
    """
    index = folder / _INDEX
    if not index.exists():
        return [_WHOLE]
    try:
        names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is not a weight index: {error!r:.200}; fetch the base again") from error
    if not names:
        raise WeightsError(f"{index} is not a weight index: it names no file; fetch the base again")
    if outside:
        raise WeightsError(f"{index} names files that are not in its folder: {', '.join(outside)}")
    return names


def _shards(path: Path) -> list[Path]:
    names = shard_names(path)
    missing = [name for name in names if not (path / name).exists()]
    if missing == [_WHOLE] and not (path / _INDEX).exists():
        pickled = next(path.glob("*.bin"), None)
        hint = f"; {pickled.name} is a pickle, which is never opened" if pickled else ""
        raise WeightsError(f"{path} has neither {_WHOLE} nor {_INDEX}{hint}")
    if missing:
        raise WeightsError(f"{path / _INDEX} names files that are not in its folder: {', '.join(missing)}")
    return [path / name for name in names]
