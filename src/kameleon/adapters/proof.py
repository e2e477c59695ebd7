"""Proof that an adapter is live: what matched, which layers are dead, and how far a probe's logits move."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.bank import Bank
from kameleon.errors import AdapterMismatchError
from kameleon.model import Base
from kameleon.ops import NO_ADAPTER, Segments

_PROBE = "Question: What is the most important thing to know here?\nAnswer: 1. The"


@dataclass(frozen=True)
class Proof:
    """What loading found out. `logits_moved_*` compare the probe's logits with the plain base's, over all tokens."""

    adapter: str
    matched_modules: int
    dead_modules: tuple[str, ...]
    logits_moved_max: float
    logits_moved_mean: float

    @property
    def live(self) -> bool:
        """Whether the adapter changes anything at all."""
        return self.logits_moved_max > 0


@torch.inference_mode()
def prove(base: Base, adapter: Adapter, any_base: bool = False) -> Proof:
    """Put `adapter` on `base` in a bank of its own and look.

    Raises WrongBaseError and AdapterMismatchError as `Bank.add` does, and AdapterMismatchError for an adapter that
    changes the logits into NaN or infinity. A fresh adapter (every B zero) is no error: its proof says it is not live.
    """
    bank = Bank(base)
    slot = bank.add(adapter, any_base)
    tokens = torch.tensor(base.tokenizer.encode(_PROBE, add_special_tokens=False))
    length = len(tokens)
    segments = Segments((length, length), (NO_ADAPTER, slot))
    logits = base.decoder.logits(base.decoder.hidden(tokens.repeat(2), segments, bank))
    moved = (logits[length:] - logits[:length]).abs()
    if not torch.isfinite(moved).all():
        raise AdapterMismatchError(f"adapter {adapter.name!r} turns the logits into NaN or infinity; it is broken")
    return Proof(
        adapter.name, len(adapter.modules), tuple(adapter.dead_modules), float(moved.max()), float(moved.mean())
    )
