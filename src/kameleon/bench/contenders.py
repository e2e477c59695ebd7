"""Who takes part: Kameleon, its peers and the floor; what each needs, and how much memory it takes about."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from kameleon.bench.cases import Case
from kameleon.bench.floor import multiply
from kameleon.bench.ours import train_with_kameleon
from kameleon.bench.peers import train_with_compiled_peft, train_with_peft, train_with_trl
from kameleon.bench.turns import Run
from kameleon.errors import SettingError
from kameleon.model import DecoderConfig, module_shapes

KAMELEON, PEFT, PEFT_COMPILED, TRL, FLOOR = "kameleon", "peft", "peft_compiled", "trl", "gemm_floor"
_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Contender:
    """One side. `libraries` are those beyond Kameleon's own; `activations` is its share of what PEFT keeps."""

    name: str
    title: str
    run: Run
    libraries: tuple[str, ...] = ()
    needs_compiler: bool = False
    activations: float = 1.0
    keeps_logits: bool = True

    def missing(self) -> str | None:
        """A sentence on what keeps it from taking part here, or None."""
        for library in self.libraries:
            if find_spec(library) is None:
                return f'{library} is not installed (pip install -c constraints.txt "kameleon[bench]")'
        if self.needs_compiler and not any(map(shutil.which, _COMPILERS)):
            return "torch.compile needs a C++ compiler (apt-get install g++)"
        return None

    def needed_bytes(self, case: Case, config: DecoderConfig, dtype: torch.dtype) -> int:
        """About how much memory a step takes at most; good to a third, to tell who can be in memory together."""
        head = config.vocab_size * config.hidden_size
        inner = sum(rows * columns for rows, columns in module_shapes(config).values())
        numbers = inner + head * (1 if config.tie_word_embeddings else 2)
        tokens = case.rows * case.tokens
        # What a layer keeps in PEFT, counted in rows as wide as the hidden states and as the MLP.
        layer = tokens * (20 * config.hidden_size + 8 * config.intermediate_size)
        if case.checkpoint:
            layer = tokens * config.hidden_size + layer // config.num_layers
        logits = 5 * 4 * tokens * config.vocab_size if self.keeps_logits else 0  # fp32, with softmax and gradients
        size = dtype.itemsize
        return int(size * (numbers + self.activations * layer * config.num_layers)) + logits


CONTENDERS = {
    one.name: one
    for one in (
        Contender(KAMELEON, "Kameleon", train_with_kameleon, activations=0.7, keeps_logits=False),
        Contender(FLOOR, "the bare multiplications", multiply, activations=0.05, keeps_logits=False),
        Contender(PEFT, "PEFT", train_with_peft, ("peft",)),
        Contender(PEFT_COMPILED, "PEFT + torch.compile", train_with_compiled_peft, ("peft",), needs_compiler=True),
        Contender(TRL, "TRL's SFTTrainer, packing", train_with_trl, ("trl", "datasets", "peft")),
    )
}


def find_contenders(names: str) -> list[Contender]:
    """Contenders by name, separated by commas; Kameleon, whom all others are compared with, is always one of them.

    Raises SettingError for an unknown name.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()} | {KAMELEON}
    unknown = sorted(wanted - CONTENDERS.keys())
    if unknown:
        raise SettingError(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    return [one for name, one in CONTENDERS.items() if name in wanted]


def seat_together(others: Sequence[Contender], needs: dict[str, int], room_bytes: int | None) -> list[list[Contender]]:
    """Who is in memory at a time: each group has Kameleon and as many others as fit beside it.

    Ratios are taken within a group, whose members meet the same machine. `needs` is in bytes, by name.
    """
    groups: list[list[Contender]] = []
    used = 0
    for one in others:
        if not groups or (room_bytes is not None and used + needs[one.name] > room_bytes):
            groups.append([CONTENDERS[KAMELEON]])
            used = needs[KAMELEON]
        groups[-1].append(one)
        used += needs[one.name]
    return groups or [[CONTENDERS[KAMELEON]]]
