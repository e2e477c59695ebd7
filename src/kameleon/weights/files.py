"""Weight files opened read-only, with tensors under their Hugging Face names whatever the format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.ops import Matrix
from kameleon.weights.fingerprint import cached_fingerprint, hash_tensors, note_fingerprint, state_of

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""

_MULTIPLIED = (torch.float32, torch.bfloat16, torch.float16)


class WeightFile(ABC):
    """One base's tensors. Names are those of the Hugging Face layout, such as `model.layers.0.mlp.up_proj.weight`."""

    path: Path

    @abstractmethod
    def names(self) -> Sequence[str]:
        """All tensors, sorted."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape without reading it. Raises WeightsError for a name that is not there."""

    @abstractmethod
    def _read(self, name: str) -> Tensor: ...

    @abstractmethod
    def _files(self) -> list[Path]: ...

    @abstractmethod
    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        """(stored name, shape, type, bytes) of every tensor in the order of their names, for the fingerprint."""

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor, mapped read-only where the format allows; quantised ones are unpacked to fp32.

        Raises WeightsError when it is missing or not of the expected `shape`.
        """
        got = self.shape(name)
        if shape is not None and got != shape:
            raise WeightsError(f"{name} in {self.path} is {_times(got)}; the config says {_times(shape)}")
        return self._read(name)

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """A weight as it is stored, packed if need be: for products. Raises as `tensor` does, and for other types than
        fp32, bf16 and fp16."""
        matrix = self.tensor(name, shape)
        if matrix.dtype not in _MULTIPLIED:
            kind = str(matrix.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{name} in {self.path} is stored in {kind}; only fp32, bf16 and fp16 are multiplied here"
            )
        return matrix

    def fingerprint(self) -> str:
        """A hash over every tensor's name, shape, type and stored bytes, kept beside the file until it changes."""
        files = self._files()
        known = cached_fingerprint(files)
        if known is None:
            state = state_of(files)
            known = hash_tensors(self._stored())
            note_fingerprint(files, state, known)
        return known

    def hashed_again(self) -> str:
        """The fingerprint computed from the bytes as they are now, whatever was noted of it."""
        return hash_tensors(self._stored())

    def _missing(self, name: str) -> WeightsError:
        return WeightsError(f"{self.path} has no tensor {name} (it holds {len(self.names())}); the base is incomplete")


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
