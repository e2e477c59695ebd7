"""Pure functions on tensors of a packed batch. They know segments and frozen weights, but no model, file or adapter.

Each has a slow plain-PyTorch reference in `reference.py`, and a test that compares the two.
"""

from kameleon.ops.attention import LayerCache, attention, attention_cached
from kameleon.ops.compute_type import ComputeType, measure_compute_type
from kameleon.ops.cross_entropy import IGNORE, TokenScores, linear_cross_entropy, token_scores
from kameleon.ops.lora_linear import Branch, SidePath, lora_linear
from kameleon.ops.rms_norm import rms_norm
from kameleon.ops.rope import rope, rotation
from kameleon.ops.segments import NO_ADAPTER, NO_PARENT, Run, Segments
from kameleon.ops.swiglu import swiglu

__all__ = [
    "IGNORE",
    "NO_ADAPTER",
    "NO_PARENT",
    "Branch",
    "ComputeType",
    "LayerCache",
    "Run",
    "Segments",
    "SidePath",
    "TokenScores",
    "attention",
    "attention_cached",
    "linear_cross_entropy",
    "lora_linear",
    "measure_compute_type",
    "rms_norm",
    "rope",
    "rotation",
    "swiglu",
    "token_scores",
]
