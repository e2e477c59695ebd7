"""Plain kinds of numbers: the names by which files know them, and torch's types."""

from collections.abc import Mapping

import torch

FLOATS: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Kinds whose matrices can be multiplied as they are; GGUF and safetensors name them alike."""
