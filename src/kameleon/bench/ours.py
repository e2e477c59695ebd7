"""Kameleon's side of the comparison: the step of a training run, without the run around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kameleon.adapters.formats import read_adapter
from kameleon.adapters.resident import Bank
from kameleon.bases import Base, load_base
from kameleon.bench.cases import Rows
from kameleon.bench.settings import BenchSettings
from kameleon.bench.turns import Job, Turns
from kameleon.data import Example, PackedPass, pack
from kameleon.model.decoder import Decoder
from kameleon.training import Recipe
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee
from kameleon.weights import FrozenWeight

_NEVER_CLIPPED = 1e9  # no gradient is that long


def recipe_of(settings: BenchSettings) -> Recipe:
    """The recipe that all contenders follow. Gradients are not clipped, since each side would clip in its own way."""
    return Recipe(
        rank=settings.rank,
        alpha=2 * settings.rank,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        clip_norm=_NEVER_CLIPPED,
    )


def pack_rows(rows: Rows, *, slot: int, max_tokens: int) -> list[PackedPass]:
    """The passes of a step that learns every token of `rows`."""
    examples = [Example(at, tuple(row), (True,) * len(row)) for at, row in enumerate(rows)]
    return pack(examples, max_tokens, adapter=slot)


def train_with_kameleon(job: Job, turns: Turns) -> None:
    """One adapter, one optimiser step a turn."""
    _train(load_base(job.base, job.dtype), job, turns)


def train_on_unpacked(job: Job, turns: Turns) -> None:
    """The same on a packed base that was dequantised to bf16 beforehand: shows what dequantising in each pass costs."""
    _train(unpacked(load_base(job.base, job.dtype)), job, turns)


def unpacked(base: Base) -> Base:
    """The same base with each matrix as plain bf16 numbers."""

    def plain(weight: FrozenWeight) -> FrozenWeight:
        return FrozenWeight(weight.dense().bfloat16(), dtype=base.compute_dtype)

    whole = base.decoder
    layers = [layer.with_weights(plain) for layer in whole.layers]
    embedding = plain(whole.embedding)
    head = embedding if whole.head is whole.embedding else plain(whole.head)
    return replace(base, decoder=Decoder(whole.config, embedding=embedding, layers=layers, norm=whole.norm, head=head))


def _train(base: Base, job: Job, turns: Turns) -> None:
    bank = Bank(base)
    # The adapter was made for this base's shape, not for its weights.
    slot = bank.add(read_adapter(Path(job.adapter)), any_base=True)
    trainee = Trainee(bank, bank.names()[slot], recipe_of(job.settings))
    layers, rates = base.config.num_layers if job.case.checkpoint else 0, [job.settings.learning_rate]
    while (rows := turns.next()) is not None:
        passes = pack_rows(rows, slot=slot, max_tokens=job.settings.micro_batch_tokens)
        [result] = train_step(base, bank, [trainee], passes, learning_rates=rates, checkpoint_layers=layers)
        turns.done(result.loss)
