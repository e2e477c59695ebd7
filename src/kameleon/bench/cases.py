"""What is measured: rows and tokens of a step, and the base."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from kameleon.errors import SettingError

Rows = list[list[int]]
"""The token ids of each row of a step. All are learned, so that every contender does the same work."""

SMOLLM2 = "smollm2"


@dataclass(frozen=True)
class Case:
    """One size. Random tokens cost as much as real ones, and no two rows share a prefix."""

    name: str
    rows: int
    """Rows a step."""
    tokens: int
    """Tokens of a row; with `shortest_tokens`, of the longest one."""
    base: str = SMOLLM2
    """A base as `kameleon.load` takes it, or a name in `SHAPES`."""
    shortest_tokens: int | None = None
    """With it, lengths of rows are drawn from `shortest_tokens` to `tokens`, as lengths of chats differ."""
    checkpoint: bool = False
    """Every contender uses activation checkpointing on all layers: for long rows."""
    packed: bool = False
    """The base is a packed GGUF file. A contender that cannot read it trains on the same shape in its own format."""

    @property
    def warm_up_steps(self) -> int:
        """Untimed steps at the start. A compiler works once with equal lengths, up to three times with others."""
        return 1 if self.shortest_tokens is None else 3

    def batch(self, step: int, vocab_size: int) -> Rows:
        """The rows of step `step`, equal in every process."""
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
        # The same shape with few layers, so that the unpacked base fits in memory beside the others.
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
