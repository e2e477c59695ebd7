"""Bases that many people use, 0.1 to 72 billion parameters: their shapes, and which of them this machine can train."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

import gguf
import torch

from kameleon.model import DecoderConfig
from kameleon.model.hf_config import config_from_hf
from kameleon.plan.calibration import Rates, calibrate
from kameleon.plan.header import BaseHeader, StoredTensor, matrix_shapes
from kameleon.plan.memory import Memory, training_memory
from kameleon.plan.workload import Pass, Workload
from kameleon.settings import Execution, Recipe
from kameleon.training import Schedule
from kameleon.weights import ModuleName

# name, family, layers, hidden, intermediate, heads, key heads, head_dim, vocabulary, tied. Gemma's are computed with
# llama's arithmetic: the same matrices.
_SHAPES = (
    ("SmolLM2 135M", "llama", 30, 576, 1536, 9, 3, 64, 49152, True),
    ("Gemma 3 270M", "llama", 18, 640, 2048, 4, 1, 256, 262144, True),
    ("SmolLM2 360M", "llama", 32, 960, 2560, 15, 5, 64, 49152, True),
    ("Qwen2.5 0.5B", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, True),
    ("Qwen3 0.6B", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    ("Gemma 3 1B", "llama", 26, 1152, 6912, 4, 1, 256, 262144, True),
    ("Llama 3.2 1B", "llama", 16, 2048, 8192, 32, 8, 64, 128256, True),
    ("Qwen2.5 1.5B", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, True),
    ("SmolLM2 1.7B", "llama", 24, 2048, 8192, 32, 32, 64, 49152, True),
    ("Qwen3 1.7B", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, True),
    ("Qwen2.5 3B", "qwen2", 36, 2048, 11008, 16, 2, 128, 151936, True),
    ("Llama 3.2 3B", "llama", 28, 3072, 8192, 24, 8, 128, 128256, True),
    ("Gemma 3 4B", "llama", 34, 2560, 10240, 8, 4, 256, 262144, True),
    ("Qwen3 4B", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True),
    ("Mistral 7B", "llama", 32, 4096, 14336, 32, 8, 128, 32768, False),
    ("Qwen2.5 7B", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False),
    ("Llama 3.1 8B", "llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
    ("Qwen3 8B", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    ("Gemma 3 12B", "llama", 48, 3840, 15360, 16, 8, 256, 262144, True),
    ("Qwen2.5 14B", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, False),
    ("Qwen3 14B", "qwen3", 40, 5120, 17408, 40, 8, 128, 151936, False),
    ("Gemma 3 27B", "llama", 62, 5376, 21504, 32, 16, 128, 262144, True),
    ("Qwen2.5 32B", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, False),
    ("Qwen3 32B", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, False),
    ("Llama 3.1 70B", "llama", 80, 8192, 28672, 64, 8, 128, 128256, False),
    ("Qwen2.5 72B", "qwen2", 80, 8192, 29568, 64, 8, 128, 152064, False),
)
COMMON_NAMES = tuple(shape[0] for shape in _SHAPES)
_MEASURED = "Qwen2.5 1.5B"  # the shape that speed is measured on; others by their numbers of multiplications
_PASS_TOKENS = 512


@dataclass(frozen=True)
class CommonBase:
    """A base of the table on this machine: the least memory in which it trains, and its seconds for 1,000 tokens."""

    name: str
    parameters: int
    file_bytes: int
    checkpoint_layers: int
    memory: Memory
    seconds_per_1000_tokens: float
    fits: bool | None
    """None where the system does not say how much memory there is."""


def common_header(name: str, quantize: str | None = None) -> BaseHeader:
    """The base of that name (one of COMMON_NAMES) as a Q4_K_M file would hold it. Raises SettingError for a `quantize`,
    as of any GGUF.
    """
    _, family, layers, hidden, wide, heads, kv, head_dim, vocab, tied = _SHAPES[COMMON_NAMES.index(name)]
    values = {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
    }
    config = config_from_hf(values)
    tensors = {name: _in_q4_k_m(name, shape, config) for name, shape in matrix_shapes(config).items()}
    header = BaseHeader(name, config, tensors, packed_file=True)
    return header.in_nf4() if quantize else header


def _in_q4_k_m(name: str, shape: tuple[int, int], config: DecoderConfig) -> StoredTensor:
    """llama.cpp's mix: the head, and V and the down projection of every second layer, in six bits, the rest in four.
    Rows that are not whole blocks of 256 get eight bits and five instead, in blocks of 32.
    """
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    place = ModuleName.parse(name)
    finer = name == head or (place.member.endswith(("v_proj.weight", "down_proj.weight")) and place.layer % 2)
    kinds = ("Q5_0", "Q8_0") if shape[1] % gguf.QK_K else ("Q4_K", "Q6_K")
    kind = kinds[bool(finer)]
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert shape[1] % block == 0, (name, shape)
    return StoredTensor(shape, kind, shape[0] * (shape[1] // block) * block_bytes)


def common_bases(recipe: Recipe, dtype: torch.dtype, *, process_bytes: int, room_bytes: int | None) -> list[CommonBase]:
    """Which bases of the table fit into `room_bytes` with rows of 512 tokens.

    Each recomputes as few layers as make it fit; if nothing fits, all but the last.
    """
    measured = common_header(_MEASURED)
    rates = calibrate(measured, recipe.rank, recipe.variant, "all-linear", dtype, _PASS_TOKENS)
    recipe = replace(recipe, targets="all-linear", layers=None)
    one = Pass(_PASS_TOKENS, _PASS_TOKENS, _PASS_TOKENS, _PASS_TOKENS**2)
    work = Workload((one,), 1, Schedule(1, 1, 1, 0))

    def needed(header: BaseHeader, again: int) -> Memory:
        return training_memory(
            header, recipe, Execution(checkpoint_layers=again), work, dtype=dtype, process_bytes=process_bytes
        )

    def fits(memory: Memory) -> bool | None:
        return None if room_bytes is None else memory.peak_bytes <= room_bytes

    found = []
    for header in map(common_header, COMMON_NAMES):
        counts = range(header.config.num_layers - 1)  # each takes less memory than the one before
        again = bisect_left(counts, x=True, key=lambda n, header=header: bool(fits(needed(header, n))))
        memory = needed(header, again)
        seconds = _scaled_seconds(rates, measured.config, header.config, again, one) * 1000 / _PASS_TOKENS
        numbers = sum(rows * columns for rows, columns in matrix_shapes(header.config).values())
        found.append(CommonBase(header.name, numbers, header.size_bytes, again, memory, seconds, fits(memory)))
    return found


def _scaled_seconds(rates: Rates, measured: DecoderConfig, config: DecoderConfig, again: int, one: Pass) -> float:
    """Seconds of a pass of another shape, all of it trained: products by their numbers, attention by its heads, and
    giving memory back by the width.
    """
    share = again / config.num_layers
    layer = rates.both(one.tokens) + share * rates.forward(one.tokens)
    sparing = rates.sparing * one.tokens * config.hidden_size / measured.hidden_size if again else 0.0
    pairs = rates.pair_both + share * rates.pair_forward
    wide = (config.num_heads * config.head_dim) / (measured.num_heads * measured.head_dim)
    head = rates.head_seconds(rates.head_both, one.scored) * _vocab_numbers(config) / _vocab_numbers(measured)
    inner = layer * _layer_numbers(config) / _layer_numbers(measured) + sparing + pairs * one.squares * wide
    return config.num_layers * inner + head


def _vocab_numbers(config: DecoderConfig) -> int:
    return config.vocab_size * config.hidden_size


def _layer_numbers(config: DecoderConfig) -> int:
    shapes = matrix_shapes(config)
    return sum(rows * columns for name, (rows, columns) in shapes.items() if ModuleName.parse(name).layer == 0)
