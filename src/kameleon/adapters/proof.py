"""Proof that an adapter is live and in its place: at every load, and in full by `verify`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.fit import misfits
from kameleon.adapters.resident.bank import Bank
from kameleon.bases import Base
from kameleon.errors import AdapterMismatchError
from kameleon.model import module_shapes
from kameleon.ops import NO_ADAPTER, Segments
from kameleon.words import first_few

PROBE = "Question: What is the most important thing to know here?\nAnswer: 1. The"
"""The text whose logits show whether an adapter is live."""


@dataclass(frozen=True)
class Proof:
    """What loading found out. `logits_moved_*` compare the probe's logits with the plain base's, over all tokens."""

    adapter: str
    matched_modules: int
    dead_modules: tuple[str, ...]
    logits_moved_max: float
    logits_moved_mean: float
    template_equal: bool | None = None
    """Whether it was trained on the base's chat template; None when its card does not say."""

    @property
    def live(self) -> bool:
        """Whether the adapter changes anything at all."""
        return self.logits_moved_max > 0


@torch.inference_mode()
def prove(base: Base, adapter: Adapter, *, any_base: bool = False) -> Proof:
    """Put `adapter` on `base` in a bank of its own and look.

    Raises WrongBaseError and AdapterMismatchError as `Bank.add` does, and AdapterMismatchError for an adapter that
    changes the logits into NaN or infinity. A fresh adapter (every B zero) is no error: its proof says it is not live.
    """
    plain, live = probe_logits(base, adapter, any_base=any_base)
    moved = (live - plain).abs()
    if not torch.isfinite(moved).all():
        raise AdapterMismatchError(f"adapter {adapter.name!r} turns the logits into NaN or infinity; it is broken")
    trained_on = adapter.card.template_hash
    return Proof(
        adapter.name,
        len(adapter.modules) + len(adapter.ends),
        tuple(adapter.dead_modules),
        float(moved.max()),
        float(moved.mean()),
        None if trained_on is None else trained_on == base.template.hash,
    )


@dataclass(frozen=True)
class Check:
    """One thing that must hold, whether it does, and what was found. None: it could not be looked at."""

    what: str
    holds: bool | None
    found: str


def verify(base: Base, adapter: Adapter, *, any_base: bool = False) -> tuple[Check, ...]:
    """All checks of an adapter on its base. Its files were checked when it was read.

    A check that fails raises nothing, and the others are still made. With `any_base`, another base or
    none in the card counts as wanted. The base's fingerprint is computed from its bytes afterwards.
    """
    faults, shapes, card = misfits(base.config, base.weights.names(), adapter), module_shapes(base.config), adapter.card
    parts = {**adapter.modules, **adapter.ends}
    broken = [m for m, part in parts.items() if not all(torch.isfinite(t).all() for t in part.tensors)]
    left, dead = [name for name in shapes if name not in adapter.modules], adapter.dead_modules
    told = card.base_fingerprint
    whose = "this base's" if told == base.fingerprint else f"{card.base_id or 'unknown'} ({(told or 'none')[:19]})"
    template = card.template_hash in (None, base.template.hash)
    checks = [
        Check("names and shapes", not faults, "; ".join(faults) or f"{len(parts)} modules matched"),
        Check("numbers are finite", not broken, ", ".join(broken) or "no NaN, no infinity"),
        Check("no dead modules", not dead, ", ".join(dead) or "every B has numbers"),
        Check("base fingerprint", any_base or told == base.fingerprint, whose),
        Check(
            "chat template",
            template,
            _told_template(card.template_hash, equal=template),
        ),
    ]
    if faults or broken:
        checks.append(Check("logits move", None, "not tried, since it does not fit"))
    else:
        plain, live = probe_logits(base, adapter, any_base=True)
        moved = (live - plain).abs()
        found = f"at most {float(moved.max()):.3f}, on average {float(moved.mean()):.3f}"
        checks.append(Check("logits move", bool(torch.isfinite(moved).all() and moved.max() > 0), found))
    untouched = base.weights.hashed_again() == base.fingerprint
    checks.append(Check("base untouched", untouched, f"its bytes {'give' if untouched else 'no longer give'} its hash"))
    unadapted = f"{len(left)} of {len(shapes)} have no side path" + (f": {first_few(left, 5)}" if left else "")
    return (*checks, Check("projections of the base", holds=True, found=unadapted))


def _told_template(trained_on: str | None, *, equal: bool) -> str:
    if trained_on is None:
        return "not in the card"
    return "as in training" if equal else "another than in training: answers will differ from what was taught"


@torch.inference_mode()
def probe_logits(base: Base, adapter: Adapter | None = None, *, any_base: bool = False) -> tuple[Tensor, Tensor]:
    """Logits [tokens, vocabulary] of a fixed text on the plain base and on base and adapter (None: the base again).

    Both come out of one pass. Raises WrongBaseError and AdapterMismatchError as `Bank.add` does.
    """
    bank = Bank(base)
    slot = NO_ADAPTER if adapter is None else bank.add(adapter, any_base=any_base)
    tokens = torch.tensor(base.tokenizer.encode(PROBE, add_special_tokens=False))
    segments = Segments((len(tokens), len(tokens)), (NO_ADAPTER, slot))
    hidden = base.decoder.hidden(tokens.repeat(2), segments, bank)
    logits = base.decoder.logits(hidden, [NO_ADAPTER] * len(tokens) + [slot] * len(tokens), bank)
    plain, live = logits.chunk(2)
    return plain, live
