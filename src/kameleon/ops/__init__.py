"""Pure functions on tensors of a packed batch. They know segments and frozen weights, but no model, file or adapter.

Most have a kernel in `native/` and a slow reference in plain PyTorch, in `reference.py` or beside the operator. The
folder `native` decides which of the two runs, and a test compares them.
"""

from kameleon.ops import nf4
from kameleon.ops.adamw import AdamW
from kameleon.ops.attention import attention, split_heads
from kameleon.ops.checkpointing import recompute, release_freed_memory
from kameleon.ops.compute_type import COMPUTE_TYPES, ComputeType, choose_compute_type, compute_name
from kameleon.ops.cross_entropy import TokenScores, chunk_rows, linear_cross_entropy, logits_type, token_scores
from kameleon.ops.gated import Gated, gated
from kameleon.ops.layer_stack import LayerStack, LayerWeights, Stacked
from kameleon.ops.lora_linear import lora_linear
from kameleon.ops.native import (
    Choice,
    can_multiply,
    can_run,
    clear,
    compute_in_one_thread,
    give_back_memory,
    keep_memory,
    torch_has_amx,
)
from kameleon.ops.native import choice as kernels
from kameleon.ops.native.abi import KINDS, PAGE_TOKENS, PROJECTIONS
from kameleon.ops.paged_attention import LayerPages, attention_paged, new_pages
from kameleon.ops.products import Addition, Matrix, Term, multiply, prepare, sum_products
from kameleon.ops.recomputed import Recomputed
from kameleon.ops.rms_norm import RmsNorm, rms_norm
from kameleon.ops.rope import rope, rotation
from kameleon.ops.segments import IGNORE, NO_ADAPTER, NO_PARENT, AdapterSpan, Segments
from kameleon.ops.side_path import Branch, SidePath
from kameleon.ops.side_table import SideTable
from kameleon.ops.stored_matrix import StoredMatrix, tile_bytes

__all__ = [
    "COMPUTE_TYPES",
    "IGNORE",
    "KINDS",
    "NO_ADAPTER",
    "NO_PARENT",
    "PAGE_TOKENS",
    "PROJECTIONS",
    "AdamW",
    "AdapterSpan",
    "Addition",
    "Branch",
    "Choice",
    "ComputeType",
    "Gated",
    "LayerPages",
    "LayerStack",
    "LayerWeights",
    "Matrix",
    "Recomputed",
    "RmsNorm",
    "Segments",
    "SidePath",
    "SideTable",
    "Stacked",
    "StoredMatrix",
    "Term",
    "TokenScores",
    "attention",
    "attention_paged",
    "can_multiply",
    "can_run",
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
    "multiply",
    "new_pages",
    "nf4",
    "prepare",
    "recompute",
    "release_freed_memory",
    "rms_norm",
    "rope",
    "rotation",
    "split_heads",
    "sum_products",
    "tile_bytes",
    "token_scores",
    "torch_has_amx",
]
