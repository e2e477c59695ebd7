"""Plain kinds of numbers: the names by which files know them, and torch's types."""

from collections.abc import Mapping

import torch

from kameleon.ops.native.abi import PLAIN_KINDS

FLOATS: Mapping[str, torch.dtype] = {kind: dtype for dtype, kind in PLAIN_KINDS.items()}
"""Kinds whose matrices can be multiplied as they are; GGUF and safetensors name them alike."""
