"""What goes through the base in a run: the sizes of its passes, without their tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kameleon.data import Example, Packed, pack, rows_of_step
from kameleon.ops import IGNORE, NO_PARENT
from kameleon.settings import Recipe, Watch

_SAMPLED_STEPS = 48  # laid out to learn how passes fall; more would only take longer
_LOOKS = 8  # as `Run.eval_every` has it by default


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

    `steps_per_epoch` may be a fraction. `assumed` says what was taken where there are no rows to look at.
    """

    passes: tuple[Pass, ...]
    sampled_steps: int
    steps: int
    steps_per_epoch: float
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
    steps = math.ceil(len(examples) * recipe.epochs / recipe.rows_per_step)
    chosen = range(0, steps, max(1, steps // _SAMPLED_STEPS))
    passes = []
    for step in chosen:
        rows = rows_of_step(len(examples), step, recipe.rows_per_step, recipe.seed)
        passes += _passes([examples[row] for row in rows], watch)
    longest = max(examples, key=lambda example: len(example.tokens))
    # The longest row may be in no chosen step; alone, it is the least of what its pass can be.
    largest_alone = _passes([longest], watch)[0]
    if all(p.tokens < largest_alone.tokens for p in passes):
        passes[-1] = largest_alone
    watched = held_out[: watch.eval_rows]
    every = watch.eval_every or max(1, math.ceil(steps / _LOOKS))
    looks = math.ceil(steps / every) if watched else 0
    look = _passes(watched, watch) if watched else ()
    return Workload(tuple(passes), len(chosen), steps, len(examples) / recipe.rows_per_step, tuple(look), looks)


def assumed_workload(row_tokens: int, rows: int, recipe: Recipe, watch: Watch) -> Workload:
    """Where there are no rows yet: `rows` of `row_tokens` tokens each, all of them learned."""
    length = min(row_tokens, recipe.max_row_tokens)
    example = Example(0, tuple(range(length)), (True,) * length)
    step = tuple(_passes([example] * recipe.rows_per_step, watch, alike=False))
    steps = math.ceil(rows * recipe.epochs / recipe.rows_per_step)
    told = f"{rows:,} rows of {length} tokens (no data was given)"
    return Workload(step, 1, steps, rows / recipe.rows_per_step, (), 0, told)


def _passes(examples: Sequence[Example], watch: Watch, alike: bool = True) -> list[Pass]:
    if not alike:  # rows that share nothing: begun each with a token of its own
        examples = [Example(i, (-i, *e.tokens[1:]), e.trained) for i, e in enumerate(examples)]
    return [Pass.of(packed) for packed in pack(examples, watch.micro_batch_tokens, 0)]
