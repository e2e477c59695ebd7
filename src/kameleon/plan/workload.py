"""What goes through the base in a run: the sizes of its passes, without their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kameleon.data import Example, Packed, pack
from kameleon.ops import IGNORE, NO_PARENT
from kameleon.settings import Recipe, Watch
from kameleon.training import Schedule

_SAMPLED_STEPS = 48  # laid out to learn how passes fall; more would only take longer


@dataclass(frozen=True)
class Pass:
    """One pass: `tokens`, of which `scored` meet the head.

    `seen` counts the keys that segments see, `squares` twice the pairs of query and key (a row of n tokens has n²).
    """

    tokens: int
    scored: int
    seen: int
    squares: int

    @staticmethod
    def of(packed: Packed) -> Pass:
        segments = packed.segments
        before = [0 if parent == NO_PARENT else segments.lengths[parent] for parent in segments.parents]
        return Pass(
            tokens=segments.tokens,
            scored=int((packed.labels != IGNORE).sum()),
            seen=segments.tokens + sum(before),
            squares=sum(own * (own + 2 * parent) for own, parent in zip(segments.lengths, before, strict=True)),
        )


@dataclass(frozen=True)
class Workload:
    """`passes` of `sampled_steps` steps that stand for the run's `steps`; `look` is one look at the held-out rows.

    `assumed` says what was taken where there are no rows to look at.
    """

    passes: tuple[Pass, ...]
    sampled_steps: int
    steps: int
    steps_per_epoch: int
    look: tuple[Pass, ...]
    looks: int
    assumed: str = ""

    @cached_property
    def largest(self) -> Pass:
        """The most of everything that any pass of a step has."""
        sizes = ("tokens", "scored", "seen", "squares")
        return Pass(*(max(getattr(one, size) for one in self.passes) for size in sizes))

    @property
    def accumulates(self) -> bool:
        """Whether there are steps of several passes, whose gradients are added up."""
        return len(self.passes) > self.sampled_steps

    @property
    def tokens(self) -> float:
        """Tokens of the whole run, looks apart."""
        return sum(p.tokens for p in self.passes) / self.sampled_steps * self.steps


def workload_of(examples: Sequence[Example], held_out: Sequence[Example], recipe: Recipe, watch: Watch) -> Workload:
    """The passes of a run on these rows, as `training.Run` makes them; of a long run some steps are laid out."""
    schedule = Schedule(len(examples), recipe.epochs, recipe.rows_per_step, recipe.seed)
    chosen = range(0, schedule.steps, max(1, schedule.steps // _SAMPLED_STEPS))
    passes = []
    for step in chosen:
        passes += _passes([examples[row] for row in schedule.rows_of(step)], watch)
    longest = max(examples, key=lambda example: len(example.tokens))
    # The longest row may be in no chosen step; alone, it is the least of what its pass can be.
    largest_alone = _passes([longest], watch)[0]
    if all(p.tokens < largest_alone.tokens for p in passes):
        passes[-1] = largest_alone
    watched = held_out[: watch.eval_rows]
    looks = schedule.looks(watch.eval_every) if watched else 0
    look = tuple(_passes(watched, watch))
    return Workload(tuple(passes), len(chosen), schedule.steps, schedule.steps_per_epoch, look, looks)


def assumed_workload(row_tokens: int, rows: int, recipe: Recipe, watch: Watch) -> Workload:
    """Where there are no rows yet: `rows` of `row_tokens` tokens each, all of them learned."""
    length = min(row_tokens, recipe.max_row_tokens)
    example = Example(0, tuple(range(length)), (True,) * length)
    schedule = Schedule(rows, recipe.epochs, recipe.rows_per_step, recipe.seed)
    step = tuple(_passes([example] * len(schedule.rows_of(0)), watch, alike=False))
    told = f"{rows:,} rows of {length} tokens (no data was given)"
    return Workload(step, 1, schedule.steps, schedule.steps_per_epoch, (), 0, told)


def _passes(examples: Sequence[Example], watch: Watch, alike: bool = True) -> list[Pass]:
    if not alike:  # rows that share nothing: begun each with a token of its own
        examples = [Example(i, (-i, *e.tokens[1:]), e.trained) for i, e in enumerate(examples)]
    return [Pass.of(packed) for packed in pack(examples, watch.micro_batch_tokens, 0)]
