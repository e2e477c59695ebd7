"""Peak memory of a training run, part by part: the sum of everything that `training/step.py` and the operators keep.

Peak means resident (VmHWM on Linux), mapped pages of the base included. The system can drop those when memory is short,
so private memory is told beside it. The sums hold for the kernels; the reference path keeps several times more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kameleon.machine import resident_bytes
from kameleon.model import DecoderConfig, groups
from kameleon.model.blocks import Attention, Mlp
from kameleon.model.decoder import wide_layers
from kameleon.ops import KINDS, can_multiply, can_run, chunk_rows, give_back_memory, logits_type, tile_bytes
from kameleon.plan.counts import trainable_parameters
from kameleon.plan.header import BaseHeader, matrix_shapes
from kameleon.plan.workload import Workload
from kameleon.settings import Execution, Recipe
from kameleon.training import lowest_layer
from kameleon.weights import ModuleName
from kameleon.weights.kinds import FLOATS

_NUMBER_BYTES = 4  # of A, B, AdamW's two averages, and the gradient
# Freed blocks are kept, and as they have many sizes there are holes: on two shapes 0.4 to 0.6 of what is stored.
_HOLES = 0.5
# Measured: a base's objects and tokenizer, OpenMP's threads and autograd after their first use, and memory that was
# freed before in pieces too small for a run.
_FIRST_USE_BYTES = 60_000_000
# Of a process with everything imported, if the system does not tell the memory of this one.
_PROCESS_BYTES = 300 << 20
_PANEL_BYTES = 8 << 20  # dequantised at a time by Kameleon's own products (native/gemm.cpp)


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the peak."""

    base_mapped: int
    base_private: int
    adapters: int
    optimiser: int
    activations_and_gradient: int
    """Activations that are stored for the backward pass, and the gradient, which replaces them layer by layer."""
    logits_chunk: int
    unpack_buffers: int
    interpreter_and_libraries: int

    @property
    def peak_bytes(self) -> int:
        """The most that is resident at once, mapped pages of the base included."""
        return self.private_bytes + self.base_mapped

    @property
    def private_bytes(self) -> int:
        """All but the pages of the base's file, which other processes share and which the system can drop."""
        return sum(vars(self).values()) - self.base_mapped


def training_memory(
    header: BaseHeader,
    recipe: Recipe,
    execution: Execution,
    work: Workload,
    *,
    dtype: torch.dtype,
    process_bytes: int,
) -> Memory:
    """The peak memory of a run in compute type `dtype`; `process_bytes` is the memory of the process before the run."""
    config, numbers = header.config, trainable_parameters(header.config, recipe)
    scored = min(work.largest.scored, chunk_rows(config.vocab_size, dtype))
    return Memory(
        base_mapped=header.size_bytes,
        base_private=copied_bytes(header, dtype),
        adapters=_NUMBER_BYTES * numbers,
        optimiser=2 * _NUMBER_BYTES * numbers,
        activations_and_gradient=_step_bytes(config, recipe, execution, work, dtype),
        logits_chunk=scored * config.vocab_size * logits_type(dtype).itemsize,
        unpack_buffers=_unpack_bytes(header, dtype),
        interpreter_and_libraries=process_bytes + _FIRST_USE_BYTES,
    )


def _is_packed(kind: str) -> bool:
    return kind not in FLOATS and kind in KINDS


def copied_bytes(header: BaseHeader, dtype: torch.dtype) -> int:
    """Bytes of matrices that are copied, since they are not multiplied in the form of the file (see `ops.prepare`)."""
    if can_multiply(dtype):
        return 0
    config, copied = header.config, 0
    joined = [
        [ModuleName(layer, member.name).weight for member in group.members]
        for layer in range(config.num_layers)
        for group in groups(config)
    ]
    inner = {name for names in joined for name in names}
    for names in (*joined, *([name] for name in matrix_shapes(config) if name not in inner)):
        kinds = [header.tensors[name].kind for name in names]
        stays = [(_is_packed(kind) and can_run(torch.empty(0, dtype=dtype))) for kind in kinds]
        together = len(names) > 1 and not any(stays)
        for name, kind, packed in zip(names, kinds, stays, strict=True):
            if not packed and (together or FLOATS.get(kind) != dtype):
                rows, columns = header.tensors[name].shape
                copied += rows * columns * dtype.itemsize
    return copied


def _step_bytes(config: DecoderConfig, recipe: Recipe, execution: Execution, work: Workload, dtype: torch.dtype) -> int:
    """The peak of activations and gradient together, the work space of one layer, and that of attention."""
    lowest, stream = lowest_layer(config, recipe), 4 * config.hidden_size  # the residual stream is fp32
    tokens, wide = work.largest.tokens, wide_layers(config)
    usual, more = _layer_bytes(config, recipe, dtype.itemsize), Attention.wide_bytes(config, dtype.itemsize)
    whole = [tokens * (usual + (more if layer < wide else 0)) for layer in range(lowest, config.num_layers)]
    first = min(execution.recomputed_layers, len(whole))
    stored, again = [tokens * stream] * first + whole[first:], whole[:first] + [0] * (len(whole) - first)
    sparing = first > 0  # freed memory is given back after each layer, so that there are no holes
    gradient = _NUMBER_BYTES * trainable_parameters(config, recipe)
    growing = gradient if sparing and not work.accumulates else 0  # with several passes it is whole after the first
    most = _most_in_backward(stored, again, growing / len(whole))
    kept = int(most if sparing else (1 + _HOLES) * most) + gradient - growing
    gates = Mlp.work_bytes(config, dtype.itemsize, has_wide=wide > lowest)
    return kept + tokens * (gates + 3 * stream) + Attention.work_bytes(config, tokens, work.largest.seen)


def _most_in_backward(stored: list[int], again: list[int], gradient: float) -> float:
    """The most bytes held at any time of the backward pass: each layer frees its `stored` bytes, needs its `again`
    `again` while it runs, and leaves its gradient.
    """
    held = most = float(sum(stored))
    for layer, its_own in zip(reversed(stored), reversed(again), strict=True):
        most = max(most, held + its_own)
        held += gradient - layer
    return max(most, held)


def _layer_bytes(config: DecoderConfig, recipe: Recipe, itemsize: int) -> int:
    """Bytes of one layer and token: the blocks' activations, and x Aᵀ of each projection with a side path."""
    ranks = recipe.rank * trainable_modules_per_layer(config, recipe)
    return itemsize * ranks + sum(block.kept_bytes(config, itemsize) for block in (Attention, Mlp))


def trainable_modules_per_layer(config: DecoderConfig, recipe: Recipe) -> int:
    """How many projections of an adapted layer get a side path."""
    if recipe.targets == "all-linear":
        return sum(len(group.members) for group in groups(config))
    return len(recipe.targets.split(","))


def _unpack_bytes(header: BaseHeader, dtype: torch.dtype) -> int:
    """Bytes of the largest piece of a packed matrix that is dequantised at a time."""
    if can_multiply(dtype):
        return _PANEL_BYTES
    packed = [tensor.shape for tensor in header.tensors.values() if _is_packed(tensor.kind) and len(tensor.shape) == 2]
    return max((tile_bytes(rows, columns, dtype) for rows, columns in packed), default=0)


def process_bytes() -> int:
    """Memory that this process holds now, without mapped files of bases and freed memory that it keeps."""
    give_back_memory()
    held = resident_bytes(without=(".gguf", ".safetensors"))
    return _PROCESS_BYTES if held is None else held
