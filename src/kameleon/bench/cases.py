"""What is measured: rows × tokens a step, on which base."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from kameleon.errors import SettingError

Rows = list[list[int]]
"""The token ids of each row of a step; all of them are learned, so that every contender does the same work."""

SMOLLM2 = "smollm2"


@dataclass(frozen=True)
class Case:
    """One size. Random tokens cost what real ones do, and no two rows begin alike."""

    name: str
    rows: int
    """Rows a step."""
    tokens: int
    """Tokens of a row; of the longest, where `shortest_tokens` is given."""
    base: str = SMOLLM2
    """A base as `kameleon.load` takes it, or a name in `SHAPES`."""
    shortest_tokens: int | None = None
    """Rows have from this many tokens up to `tokens`, as chats do."""
    checkpoint: bool = False
    """Every contender keeps only what enters each layer, and computes the rest again: for long rows."""
    packed: bool = False
    """The base is a packed GGUF file: who cannot train on one trains on its shape in a form of its own."""

    @property
    def warm_up_steps(self) -> int:
        """Steps before the clock counts. Changing lengths make a compiler work up to three times, equal ones once."""
        return 1 if self.shortest_tokens is None else 3

    def batch(self, step: int, vocab_size: int) -> Rows:
        """The rows of step `step`, the same in every process."""
        lengths = random.Random(f"lengths of step {step}")
        tokens = torch.Generator().manual_seed(step)
        least = self.tokens if self.shortest_tokens is None else self.shortest_tokens
        counts = [lengths.randint(least, self.tokens) for _ in range(self.rows)]
        return [torch.randint(0, vocab_size, (count,), generator=tokens).tolist() for count in counts]

    def to_json(self) -> dict[str, Any]:
        """The size, for the result."""
        return {
            "base": self.base,
            "rows": self.rows,
            "tokens": self.tokens,
            "shortest_tokens": self.shortest_tokens,
            "checkpoint": self.checkpoint,
            "packed": self.packed,
        }


CASES = {
    case.name: case
    for case in (
        Case("4x512", 4, 512),
        Case("1x2048", 1, 2048),
        Case("0.5B-1x512", 1, 512, "qwen2.5-0.5b-random"),
        Case("1.5B-1x512", 1, 512, "qwen2.5-1.5b-random"),
        Case("chat", 8, 300, shortest_tokens=40),
        Case("1x8192", 1, 8192, checkpoint=True),
        Case("1.5B-Q4_0-1x512", 1, 512, "qwen2.5-1.5b-q4_0-random", checkpoint=True, packed=True),
        Case("8B-Q4_K_M-1x512", 1, 512, "llama3-8b-q4_k_m-random", checkpoint=True, packed=True),
        # Of the same shape, with so few layers that the base fits unpacked beside the others.
        Case("8B-4-layers-1x512", 1, 512, "llama3-8b-4-layers-q4_k_m-random", checkpoint=True, packed=True),
    )
}


def find_cases(names: str, base: str = SMOLLM2) -> list[Case]:
    """Cases by name, separated by commas: those of `CASES`, or ROWSxTOKENS for any other size.

    `base` takes SmolLM2's place. Raises SettingError for a name that is neither.
    """
    found = []
    for name in (part.strip() for part in names.split(",") if part.strip()):
        size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name)
        if name in CASES:
            case = CASES[name]
        elif size:
            case = Case(name, int(size[1]), int(size[2]))
        else:
            raise SettingError(f"no case {name!r}: give {', '.join(CASES)}, or ROWSxTOKENS")
        if case.tokens < 2:
            raise SettingError(f"case {name!r} has rows of one token; nothing can be learned from them")
        found.append(replace(case, base=base) if case.base == SMOLLM2 else case)
    if not found:
        raise SettingError(f"no case given: {', '.join(CASES)}, or ROWSxTOKENS")
    return found
