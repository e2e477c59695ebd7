"""The files that describe a base: its weights, opened under Hugging Face names, and its small JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kameleon.errors import SettingError, WeightsError
from kameleon.home import read_text
from kameleon.model.config import DecoderConfig
from kameleon.model.families import gguf_layouts
from kameleon.model.gguf_config import config_from_gguf
from kameleon.model.hf_config import config_from_hf
from kameleon.weights import GgufFile, Nf4File, Progress, SafetensorsFolder, WeightFile


def open_weights(path: Path, quantize: str | None = None, *, on_progress: Progress | None = None) -> WeightFile:
    """A folder in Hugging Face layout or a `.gguf` file; with `quantize` "nf4", a folder seen through NF4.

    Raises WeightsError for anything else, SettingError for an unknown `quantize`, or for one on a GGUF file.
    """
    if quantize not in (None, "nf4"):
        raise SettingError(f"quantize is {quantize!r}; it must be nf4, or left out")
    if path.is_dir():
        folder = SafetensorsFolder(path)
        return Nf4File(folder, on_progress) if quantize else folder
    if quantize:
        raise SettingError(f"{path} is stored in its own blocks already; leave quantize out")
    if path.suffix == ".gguf" and path.is_file():
        return open_gguf(path)
    raise WeightsError(f"{path} is neither a folder in Hugging Face layout nor a .gguf file")


def open_gguf(path: Path, *, header_only: bool = False) -> GgufFile:
    """A `.gguf` file under its family's tensor names. Raises WeightsError as `GgufFile` does."""
    return GgufFile(path, gguf_layouts(), header_only=header_only)


def read_config(path: Path, weights: WeightFile) -> DecoderConfig:
    """The config of a folder in Hugging Face layout or of a `.gguf` file. Raises UnsupportedArchitectureError."""
    if isinstance(weights, GgufFile):
        return config_from_gguf(weights)
    return config_from_hf(read_json(path / "config.json"), read_generation_config(path))


def read_generation_config(path: Path) -> dict[str, Any]:
    """How the authors of the base in a folder would generate; empty if they do not say. Raises WeightsError."""
    generation = path / "generation_config.json"
    return read_json(generation) if generation.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in one of a base's JSON files. Raises WeightsError, naming the file."""
    try:
        values = json.loads(read_text(path))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {str(error)[:200]}; fetch the base again") from error
    return values
