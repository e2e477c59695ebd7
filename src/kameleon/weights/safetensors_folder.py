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


class SafetensorsFolder(WeightFile):
    """Opens every shard at once, each mapped read-only. Raises WeightsError for a missing or damaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = _shards(path)
        self._where: dict[str, Any] = {}
        for shard in self._shards:
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
        return self._shards

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        stored = []
        for shard in self._shards:
            with shard.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            start = 8 + int.from_bytes(data[:8], "little")
            for name, entry in json.loads(bytes(data[8:start])).items():
                if name != "__metadata__":
                    first, last = entry["data_offsets"]
                    stored.append((name, entry["shape"], entry["dtype"], data[start + first : start + last]))
        return sorted(stored, key=lambda tensor: tensor[0])


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
