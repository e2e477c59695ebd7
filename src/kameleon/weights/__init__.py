"""Frozen weights and the files they come from. It knows formats, but no model and no adapter."""

from pathlib import Path

from kameleon.errors import WeightsError
from kameleon.weights.files import WeightFile
from kameleon.weights.frozen import DenseWeight, FrozenWeight, join
from kameleon.weights.gguf_file import GgufFile
from kameleon.weights.safetensors_folder import SafetensorsFolder

__all__ = ["DenseWeight", "FrozenWeight", "GgufFile", "SafetensorsFolder", "WeightFile", "join", "open_weights"]


def open_weights(path: Path) -> WeightFile:
    """A folder in Hugging Face layout or a `.gguf` file. Raises WeightsError for anything else."""
    if path.is_dir():
        return SafetensorsFolder(path)
    if path.suffix == ".gguf" and path.is_file():
        return GgufFile(path)
    raise WeightsError(f"{path} is neither a folder in Hugging Face layout nor a .gguf file")
