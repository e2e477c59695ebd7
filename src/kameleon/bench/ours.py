"""Kameleon's side of the comparison: the step of a training run, without the run around it."""

from __future__ import annotations

import math
from pathlib import Path

from kameleon.adapters import Adapter, Bank
from kameleon.bench.cases import Rows
from kameleon.bench.settings import BenchSettings
from kameleon.bench.turns import Job, Turns
from kameleon.data import Example, Packed, pack
from kameleon.model import load_base
from kameleon.training import Recipe
from kameleon.training.step import Trainee, train_step


def recipe_of(settings: BenchSettings) -> Recipe:
    """The recipe that all contenders follow; nothing is clipped, so that no side needs another's clipping."""
    return Recipe(
        rank=settings.rank,
        alpha=2 * settings.rank,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        clip_norm=math.inf,
    )


def pack_rows(rows: Rows, slot: int, max_tokens: int) -> list[Packed]:
    """The passes of a step that learns every token of `rows`."""
    examples = [Example(at, tuple(row), (True,) * len(row)) for at, row in enumerate(rows)]
    return pack(examples, max_tokens, slot)


def train_with_kameleon(job: Job, turns: Turns) -> None:
    """One adapter, one optimiser step a turn."""
    base = load_base(job.base, job.dtype)
    bank = Bank(base)
    adapter = Adapter.load(Path(job.adapter))
    slot = bank.add(adapter, any_base=True)  # made for this very base; its fingerprint would take a while to hash
    trainee = Trainee(bank.resident(adapter.name), recipe_of(job.settings))
    while (rows := turns.next()) is not None:
        packs = pack_rows(rows, slot, job.settings.micro_batch_tokens)
        turns.done(train_step(base, bank, trainee, packs, job.settings.learning_rate, job.case.checkpoint).loss)
