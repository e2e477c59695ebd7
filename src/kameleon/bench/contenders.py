"""The contenders: Kameleon, its peers and the floor, what each needs to run, and an estimate of its memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch

from kameleon.bench.cases import Case
from kameleon.bench.floor import multiply
from kameleon.bench.ours import train_on_unpacked, train_with_kameleon
from kameleon.bench.peers import train_with_compiled_peft, train_with_nf4, train_with_peft, train_with_trl
from kameleon.bench.turns import Run
from kameleon.errors import SettingError, install_command
from kameleon.model import DecoderConfig, module_shapes

KAMELEON, PEFT, PEFT_COMPILED, TRL, FLOOR = "kameleon", "peft", "peft_compiled", "trl", "gemm_floor"
PEFT_FP32 = "peft_fp32"  # takes part in the comparison of losses only
UNPACKED, PEFT_NF4 = "kameleon_unpacked", "peft_nf4"
_COMPILERS = ("g++", "clang++", "c++")
_PACKED_BITS = 5.0  # of a weight of a packed base, about
# The share of a step's working memory that the allocator may still hold after the step.
_KEPT_AFTER_A_STEP = 0.5


class Memory(NamedTuple):
    """Estimates: what a contender holds while others step, and the most that it holds while it steps."""

    idle_bytes: float
    peak_bytes: float


@dataclass(frozen=True)
class Contender:
    """One program of the comparison. `libraries`: packages that it needs in addition to Kameleon's own.

    `layers`, `activations` and `logits` estimate its memory, within a third: its shares of the weights of all layers,
    of the activations that PEFT keeps for the backward pass, and of PEFT's logits with their softmax and gradients.
    `packed`: it takes part in cases with a packed base only (True), in others only (False), or in all (None).
    `layer_bits` and `head_bits`: bits of each of its frozen weights, where the case's base and type do not say them.
    """

    name: str
    title: str
    run: Run
    libraries: tuple[str, ...] = ()
    needs_compiler: bool = False
    layers: float = 1.0
    activations: float = 1.0
    logits: float = 1.0
    packed: bool | None = None
    layer_bits: float | None = None
    head_bits: float | None = None

    def missing(self) -> str | None:
        """Why it cannot take part here, as a sentence; None if it can."""
        for library in self.libraries:
            if find_spec(library) is None:
                return f"{library} is not installed ({install_command('bench')})"
        if self.needs_compiler and not any(map(shutil.which, _COMPILERS)):
            return "torch.compile needs a C++ compiler (apt-get install g++)"
        return None

    def memory(self, case: Case, config: DecoderConfig, dtype: torch.dtype) -> Memory:
        """An estimate of the memory that it needs for a case."""
        size, tokens = dtype.itemsize, case.rows * case.tokens
        head = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
        inner = sum(rows * columns for rows, columns in module_shapes(config).values())
        stored = _PACKED_BITS if case.packed else 8.0 * size
        weights = (self.head_bits or stored) / 8 * head + (self.layer_bits or stored) / 8 * self.layers * inner
        # PEFT's activations of a layer: rows of the width of the hidden states, and rows of the MLP's width.
        layer = tokens * (20 * config.hidden_size + 8 * config.intermediate_size)
        kept = layer + config.num_layers * tokens * config.hidden_size if case.checkpoint else config.num_layers * layer
        logits = 5 * torch.float32.itemsize * tokens * config.vocab_size
        working = size * self.activations * kept + self.logits * logits
        return Memory(weights + _KEPT_AFTER_A_STEP * working, weights + working)


CONTENDERS = {
    one.name: one
    for one in (
        Contender(KAMELEON, "Kameleon", train_with_kameleon, activations=0.7, logits=0.1),
        Contender(
            UNPACKED,
            "Kameleon on the same base unpacked to bf16",
            train_on_unpacked,
            activations=0.7,
            logits=0.1,
            packed=True,
            layer_bits=16.0,
            head_bits=16.0,
        ),
        Contender(
            FLOOR, "the bare multiplications", multiply, layers=0.05, activations=0.05, logits=0.1, head_bits=32.0
        ),
        Contender(PEFT, "PEFT", train_with_peft, ("peft",), packed=False),
        Contender(
            PEFT_COMPILED,
            "PEFT + torch.compile",
            train_with_compiled_peft,
            ("peft",),
            needs_compiler=True,
            packed=False,
        ),
        Contender(TRL, "TRL's SFTTrainer, packing", train_with_trl, ("trl", "datasets", "peft"), packed=False),
        Contender(
            PEFT_NF4,
            "PEFT + bitsandbytes NF4",
            train_with_nf4,
            ("peft", "bitsandbytes"),
            packed=True,
            layer_bits=4.5,
            head_bits=32.0,
        ),
    )
}


def find_contenders(names: str) -> list[Contender]:
    """Contenders by name, separated by commas. Kameleon is always one of them: all others are compared with it.

    Raises SettingError for an unknown name.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()} | {KAMELEON}
    unknown = sorted(wanted - CONTENDERS.keys())
    if unknown:
        raise SettingError(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    return [one for name, one in CONTENDERS.items() if name in wanted]


def seat_together(
    contenders: Sequence[Contender], needs: Mapping[str, Memory], room_bytes: float | None
) -> list[list[Contender]]:
    """Groups that are in memory together: each has Kameleon, the first contender, and as many others as fit beside it.

    Ratios are taken within a group, so that both sides meet the machine in the same state. A contender that does not
    fit beside Kameleon at all is a group of its own. `needs` by name.
    """
    first, *others = contenders

    def fit(group: Sequence[Contender]) -> bool:
        memories = [needs[one.name] for one in group]
        stepping = max(memory.peak_bytes - memory.idle_bytes for memory in memories)
        return room_bytes is None or sum(memory.idle_bytes for memory in memories) + stepping <= room_bytes

    groups = [[first]]
    for one in others:
        if first in groups[-1] and fit([*groups[-1], one]):
            groups[-1].append(one)
        else:
            groups.append([first, one] if fit([first, one]) else [one])
    elsewhere = any(first in group for group in groups[1:])
    return groups[1:] if groups[0] == [first] and elsewhere else groups
