"""Weight files, opened read-only; every format gives its tensors under their Hugging Face names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.ops import Matrix
from kameleon.scratch import sweep
from kameleon.weights.fingerprint import cached_fingerprint, hash_tensors, note_fingerprint, state_of

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""

_MULTIPLIED = (torch.float32, torch.bfloat16, torch.float16)


class WeightFile(ABC):
    """One base's tensors, by names such as `model.layers.0.mlp.up_proj.weight`."""

    path: Path

    @abstractmethod
    def names(self) -> Sequence[str]:
        """All tensors, sorted."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. Raises WeightsError for an unknown name."""

    @abstractmethod
    def _read(self, name: str) -> Tensor: ...

    @abstractmethod
    def _files(self) -> list[Path]: ...

    @abstractmethod
    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        """(stored name, shape, type, bytes) of every tensor in the order of their names, for the fingerprint."""

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor, mapped read-only if the format allows that; quantised tensors are dequantised to fp32.

        Raises WeightsError if it is missing or not of the expected `shape`.
        """
        got = self.shape(name)
        if shape is not None and got != shape:
            raise WeightsError(f"{name} in {self.path} is {_times(got)}; the config says {_times(shape)}")
        tensor = self._read(name)
        # A file may put numbers at odd bytes, where kernels must not read them.
        return tensor.clone() if tensor.data_ptr() % tensor.itemsize else tensor

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """A weight as it is stored, possibly quantised, for products.

        Raises WeightsError as `tensor` does, and for plain types other than fp32, bf16 and fp16.
        """
        matrix = self.tensor(name, shape)
        if matrix.dtype not in _MULTIPLIED:
            kind = str(matrix.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{name} in {self.path} is stored in {kind}; only fp32, bf16 and fp16 are multiplied here"
            )
        return matrix

    def fingerprint(self) -> str:
        """A hash over every tensor's name, shape, type and stored bytes, noted beside the file until that changes."""
        files = self._files()
        sweep(files[0].parent)  # of a process that was killed while it noted the fingerprint
        known = cached_fingerprint(files)
        if known is None:
            state = state_of(files)
            known = hash_tensors(self._stored())
            note_fingerprint(files, state=state, fingerprint=known)
        return known

    def hashed_again(self) -> str:
        """The fingerprint, computed from the present bytes without looking at any note."""
        return hash_tensors(self._stored())

    def _missing(self, name: str) -> WeightsError:
        return WeightsError(f"{self.path} has no tensor {name} (it holds {len(self.names())}); the base is incomplete")


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
