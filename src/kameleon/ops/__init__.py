"""Pure functions on tensors of a packed batch. They know segments and frozen weights, but no model, file or adapter.

Each has a slow plain-PyTorch reference in `reference.py`, and most a kernel in `native/`; `native.py` decides which of
the two runs, and a test compares them.
"""

from kameleon.ops.adamw import AdamW
from kameleon.ops.attention import LayerCache, attention, attention_cached, split_heads
from kameleon.ops.cheap import Cheap
from kameleon.ops.compute_type import ComputeType, measure_compute_type
from kameleon.ops.cross_entropy import IGNORE, TokenScores, linear_cross_entropy, token_scores
from kameleon.ops.lora_linear import Branch, SidePath, lora_linear
from kameleon.ops.native import Choice
from kameleon.ops.native import choice as kernels
from kameleon.ops.products import Addition, multiply
from kameleon.ops.rms_norm import RmsNorm, rms_norm
from kameleon.ops.rope import rope, rotation
from kameleon.ops.segments import NO_ADAPTER, NO_PARENT, Run, Segments
from kameleon.ops.swiglu import SwiGlu, swiglu

__all__ = [
    "IGNORE",
    "NO_ADAPTER",
    "NO_PARENT",
    "AdamW",
    "Addition",
    "Branch",
    "Cheap",
    "Choice",
    "ComputeType",
    "LayerCache",
    "RmsNorm",
    "Run",
    "Segments",
    "SidePath",
    "SwiGlu",
    "TokenScores",
    "attention",
    "attention_cached",
    "kernels",
    "linear_cross_entropy",
    "lora_linear",
    "measure_compute_type",
    "multiply",
    "rms_norm",
    "rope",
    "rotation",
    "split_heads",
    "swiglu",
    "token_scores",
]
