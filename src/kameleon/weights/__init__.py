"""Frozen weights and the files they come from. It knows formats, but no model and no adapter."""

from kameleon.weights.copies import WRITABLE, copy_folder, copy_gguf
from kameleon.weights.files import Progress, WeightFile
from kameleon.weights.frozen import FrozenWeight
from kameleon.weights.gguf_file import GgufFile, whole_name
from kameleon.weights.gguf_layout import GgufLayout
from kameleon.weights.metadata import Metadata
from kameleon.weights.names import EMBEDDING, HEAD, ModuleName
from kameleon.weights.nf4_file import Nf4File
from kameleon.weights.safetensors_folder import SafetensorsFolder, shard_names
from kameleon.weights.safetensors_header import read_safetensors_header

__all__ = [
    "EMBEDDING",
    "HEAD",
    "WRITABLE",
    "FrozenWeight",
    "GgufFile",
    "GgufLayout",
    "Metadata",
    "ModuleName",
    "Nf4File",
    "Progress",
    "SafetensorsFolder",
    "WeightFile",
    "copy_folder",
    "copy_gguf",
    "read_safetensors_header",
    "shard_names",
    "whole_name",
]
