"""Frozen weights and the files they come from. It knows formats, but no model and no adapter."""

from pathlib import Path

from kameleon.errors import SettingError, WeightsError
from kameleon.weights.copies import WRITABLE, copy_folder, copy_gguf
from kameleon.weights.files import Progress, WeightFile
from kameleon.weights.frozen import FrozenWeight
from kameleon.weights.gguf_file import GgufFile, whole_name
from kameleon.weights.metadata import Metadata
from kameleon.weights.names import ModuleName
from kameleon.weights.nf4_file import Nf4File
from kameleon.weights.safetensors_folder import SafetensorsFolder, shard_names
from kameleon.weights.safetensors_header import read_safetensors_header

__all__ = [
    "WRITABLE",
    "FrozenWeight",
    "GgufFile",
    "Metadata",
    "ModuleName",
    "Nf4File",
    "SafetensorsFolder",
    "WeightFile",
    "copy_folder",
    "copy_gguf",
    "open_weights",
    "read_safetensors_header",
    "shard_names",
    "whole_name",
]


def open_weights(path: Path, quantize: str | None = None, on_progress: Progress | None = None) -> WeightFile:
    """A folder in Hugging Face layout or a `.gguf` file; with `quantize` "nf4", a folder seen through NF4.

    Raises WeightsError for anything else, SettingError for a `quantize` that there is not, or on a GGUF file.
    """
    if quantize not in (None, "nf4"):
        raise SettingError(f"quantize is {quantize!r}; it must be nf4, or left out")
    if path.is_dir():
        return Nf4File(SafetensorsFolder(path), on_progress) if quantize else SafetensorsFolder(path)
    if quantize:
        raise SettingError(f"{path} is stored in its own blocks already; leave quantize out")
    if path.suffix == ".gguf" and path.is_file():
        return GgufFile(path)
    raise WeightsError(f"{path} is neither a folder in Hugging Face layout nor a .gguf file")
