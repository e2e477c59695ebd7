"""A base in Hugging Face layout with its matrices in NF4: quantised once into a file of the cache, then mapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kameleon.errors import SettingError, WeightsError
from kameleon.home import atomic_write, cache_dir
from kameleon.ops import Matrix, StoredMatrix, nf4
from kameleon.weights.files import Progress, WeightFile
from kameleon.weights.fingerprint import cached_fingerprint, note_fingerprint, state_of
from kameleon.weights.safetensors_folder import SafetensorsFolder
from kameleon.weights.safetensors_header import header_bytes
from kameleon.weights.seal import UNSEALED, check_seal, seal

_PACKED_AT_ONCE = 2 << 20  # numbers


class Nf4File(WeightFile):
    """`source` with its matrices in NF4. Vectors, and matrices whose rows are not whole blocks of 64, stay as they are.

    The quantised copy lies in the cache, named after the source's fingerprint; it has a quarter of the size in bf16.
    One process at a time writes it. Raises WeightsError for numbers that are not finite and for files that change
    meanwhile, SettingError if the cache cannot be written.
    """

    def __init__(self, source: SafetensorsFolder, on_progress: Progress | None = None) -> None:
        self.path, self._source = source.path, source
        self._state = state_of(source._files())
        self.packed_path = cache_dir() / "nf4" / f"{source.fingerprint().removeprefix('sha256:')[:32]}.safetensors"
        if not self.packed_path.exists():
            try:
                self.packed_path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.packed_path.with_name(".lock")):
                    if not self.packed_path.exists():  # another process may have written it meanwhile
                        self._pack(on_progress)
            except OSError as error:
                where = f"cannot keep {self.path} packed in {self.packed_path.parent}"
                raise SettingError(
                    f"{where}: {error}; make room there, or set KAMELEON_HOME to another folder"
                ) from error
        try:
            if cached_fingerprint([self.packed_path]) is None:  # new, or changed since
                state = state_of([self.packed_path])
                check_seal(self.packed_path)
                note_fingerprint([self.packed_path], state=state, fingerprint=self.fingerprint())
            self._packed = safe_open(self.packed_path, "pt")
        except (WeightsError, SafetensorError, OSError) as error:
            raise WeightsError(
                f"{self.packed_path} is damaged: {error}; delete it, then load the base again"
            ) from error

    def names(self) -> Sequence[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        if name not in self.names() or self.shape(name) != shape or not _fits(shape):
            return self._source.matrix(name, shape)
        return StoredMatrix("NF4", self._packed.get_tensor(name), shape[1])

    def fingerprint(self) -> str:
        """The fingerprint of the source with a mark, since the quantised numbers follow from the source."""
        return f"nf4:{self._source.fingerprint()}"

    def hashed_again(self) -> str:
        return f"nf4:{self._source.hashed_again()}"

    def _read(self, name: str) -> Tensor:
        return self._source.tensor(name)

    def _files(self) -> list[Path]:
        return self._source._files()

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        return self._source._stored()

    def _pack(self, on_progress: Progress | None) -> None:
        """Write the copy, a few rows at a time: quantising needs several times their memory."""
        names = [name for name in self.names() if len(self.shape(name)) == 2 and _fits(self.shape(name))]
        packed = {}
        for name in names:
            rows, columns = self.shape(name)
            packed[name] = ("U8", (rows, nf4.row_bytes(columns)), rows * nf4.row_bytes(columns))
        with atomic_write(self.packed_path) as file:
            file.write(header_bytes(packed, UNSEALED))
            for done, name in enumerate(names):
                if on_progress:
                    on_progress("packing to NF4", done, len(names))
                # Opened again for each matrix, so that the pages of earlier ones leave this process.
                weight = SafetensorsFolder(self.path).tensor(name)
                for rows in weight.split(max(1, _PACKED_AT_ONCE // weight.shape[1])):
                    if not rows.isfinite().all():
                        raise WeightsError(
                            f"{name} in {self.path} holds numbers that are not finite; fetch the base again"
                        )
                    file.write(nf4.pack(rows).numpy().data)
            if state_of(self._files()) != self._state:
                raise WeightsError(f"{self.path} was changed while it was packed to NF4; load it again")
            seal(file)
        if on_progress:
            on_progress("packing to NF4", len(names), len(names))


def _fits(shape: Sequence[int]) -> bool:
    return shape[1] % nf4.BLOCK == 0
