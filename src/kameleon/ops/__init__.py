"""Pure functions on tensors of a packed batch. They know segments and frozen weights, but no model, file or adapter.

Each has a slow plain-PyTorch reference in `reference.py`, and most a kernel in `native/`; `native.py` decides which of
the two runs, and a test compares them.
"""

from kameleon.ops import nf4
from kameleon.ops.adamw import AdamW
from kameleon.ops.attention import attention, split_heads
from kameleon.ops.cheap import Cheap
from kameleon.ops.compute_type import COMPUTE_TYPES, ComputeType, choose_compute_type, compute_name
from kameleon.ops.cross_entropy import TokenScores, chunk_rows, linear_cross_entropy, logits_type, token_scores
from kameleon.ops.gated import Gated, gated
from kameleon.ops.layer_stack import LayerStack, LayerWeights, Stacked
from kameleon.ops.lora_linear import Branch, SidePath, lora_linear
from kameleon.ops.native import (
    Choice,
    clear,
    compute_in_one_thread,
    give_back_memory,
    keep_memory,
    multiplies,
    runs,
    torch_has_amx,
)
from kameleon.ops.native import choice as kernels
from kameleon.ops.packed import KINDS, Packed, tile_bytes
from kameleon.ops.paged_attention import PAGE_TOKENS, LayerPages, attention_paged, new_pages
from kameleon.ops.products import Addition, Matrix, Term, multiply, prepare, sum_products
from kameleon.ops.rerun import rerun, spare
from kameleon.ops.rms_norm import RmsNorm, rms_norm
from kameleon.ops.rope import rope, rotation
from kameleon.ops.segments import IGNORE, NO_ADAPTER, NO_PARENT, Run, Segments
from kameleon.ops.side_table import SideTable

__all__ = [
    "COMPUTE_TYPES",
    "IGNORE",
    "KINDS",
    "NO_ADAPTER",
    "NO_PARENT",
    "PAGE_TOKENS",
    "AdamW",
    "Addition",
    "Branch",
    "Cheap",
    "Choice",
    "ComputeType",
    "Gated",
    "LayerPages",
    "LayerStack",
    "LayerWeights",
    "Matrix",
    "Packed",
    "RmsNorm",
    "Run",
    "Segments",
    "SidePath",
    "SideTable",
    "Stacked",
    "Term",
    "TokenScores",
    "attention",
    "attention_paged",
    "choose_compute_type",
    "chunk_rows",
    "clear",
    "compute_in_one_thread",
    "compute_name",
    "gated",
    "give_back_memory",
    "keep_memory",
    "kernels",
    "linear_cross_entropy",
    "logits_type",
    "lora_linear",
    "multiplies",
    "multiply",
    "new_pages",
    "nf4",
    "prepare",
    "rerun",
    "rms_norm",
    "rope",
    "rotation",
    "runs",
    "spare",
    "split_heads",
    "sum_products",
    "tile_bytes",
    "token_scores",
    "torch_has_amx",
]
