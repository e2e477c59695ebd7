"""The work of a run: the sizes of its passes, without their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kameleon.data import Example, PackedPass, pack, sample
from kameleon.ops import NO_PARENT
from kameleon.settings import Execution, Recipe, Watch
from kameleon.training import Schedule
from kameleon.words import short_repr

_LAID_OUT_ROWS = 256  # of an assumed step, whose rows are all alike
_SAMPLED_STEPS = 48  # of a long run, whose passes stand for all; more would take longer
# Below these numbers a plan warns. The last one is the number of rows that are set aside of the smallest file.
_FEW_ROWS, FEW_STEPS, FEW_HELD_OUT = 20, 30, 16


@dataclass(frozen=True)
class Pass:
    """One pass: `tokens`, of which `scored` meet the head.

    `seen` counts the keys that segments attend to, `squares` is twice the pairs of query and key (n tokens have n²).
    """

    tokens: int
    scored: int
    seen: int
    squares: int

    @staticmethod
    def of(packed: PackedPass) -> Pass:
        """The shape of a packed pass."""
        segments = packed.segments
        before = [0 if parent == NO_PARENT else segments.lengths[parent] for parent in segments.parents]
        return Pass(
            tokens=segments.tokens,
            scored=packed.trained_tokens,
            seen=segments.tokens + sum(before),
            squares=sum(own * (own + 2 * parent) for own, parent in zip(segments.lengths, before, strict=True)),
        )


@dataclass(frozen=True)
class Workload:
    """`passes` of `sampled_steps` steps (below 1: a part of a step), which stand for all passes of `schedule`.

    `look` has the passes of one look at the held-out rows. `assumed` describes rows that were assumed, `why` tells what
    was derived from the rows, `warnings` what makes a useless adapter likely, and what to do about it.
    """

    passes: tuple[Pass, ...] = field(repr=False)
    sampled_steps: float
    schedule: Schedule
    look: tuple[Pass, ...] = field(default=(), repr=False)
    looks: int = 0
    look_rows: int = 0
    assumed: str = ""
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.steps

    @cached_property
    def largest(self) -> Pass:
        """A pass with the largest value of each field over all passes."""
        sizes = ("tokens", "scored", "seen", "squares")
        return Pass(*(max(getattr(one, size) for one in self.passes) for size in sizes))

    @property
    def accumulates(self) -> bool:
        """Whether gradients are accumulated: some steps have several passes."""
        return len(self.passes) > self.sampled_steps

    @property
    def tokens(self) -> float:
        """Tokens of the whole run, without looks."""
        return sum(p.tokens for p in self.passes) / self.sampled_steps * self.steps


def workload_of(
    examples: Sequence[Example], held_out: Sequence[Example], recipe: Recipe, watch: Watch, execution: Execution
) -> Workload:
    """The passes of a run on these rows, as `training.Run` makes them; of a long run those of some steps."""
    schedule = Schedule.of(recipe, len(examples))
    chosen = range(0, schedule.steps, max(1, schedule.steps // _SAMPLED_STEPS))
    passes = []
    for step in chosen:
        passes += _passes([examples[row] for row in schedule.rows_of(step)], execution)
    longest = max(examples, key=lambda example: len(example.tokens))
    # The longest row may be in no sampled step. A pass with it has at least its tokens.
    largest_alone = _passes([longest], execution)[0]
    if all(p.tokens < largest_alone.tokens for p in passes):
        passes[-1] = largest_alone
    watched = sample(held_out, watch.eval_rows, seed=recipe.seed)
    looks = schedule.looks(watch.eval_every) if watched else 0
    look = tuple(_passes(watched, execution))
    why = (*_derived(recipe, schedule), *_aside(examples, held_out))
    warnings = (*_too_few(schedule, examples, held_out), *_learned_too(examples, held_out))
    return Workload(tuple(passes), len(chosen), schedule, look, looks, len(watched), "", why, warnings)


def assumed_workload(row_tokens: int, rows: int, recipe: Recipe, execution: Execution) -> Workload:
    """A run without data: `rows` rows of `row_tokens` tokens each, all of them learned."""
    length = min(row_tokens, recipe.max_row_tokens)
    example = Example(0, tuple(range(length)), (True,) * length)
    schedule = Schedule.of(recipe, rows)
    count = schedule.visited(1)
    laid_out = min(count, _LAID_OUT_ROWS)
    passes = tuple(_passes([example] * laid_out, execution, alike=False))
    told = f"{rows:,} rows of {length} tokens (no data was given)"
    return Workload(passes, laid_out / count, schedule, assumed=told, why=_derived(recipe, schedule))


def _passes(examples: Sequence[Example], execution: Execution, *, alike: bool = True) -> list[Pass]:
    if not alike:  # each begins with its own token, so that rows share no prefix
        examples = [Example(i, (-i, *e.tokens[1:]), e.trained) for i, e in enumerate(examples)]
    return [Pass.of(packed) for packed in pack(examples, execution.pass_tokens, adapter=0)]


def _derived(recipe: Recipe, schedule: Schedule) -> tuple[str, ...]:
    """A sentence on the values that follow from the number of rows."""
    told = {"rows_per_step": recipe.rows_per_step is None, "epochs": recipe.epochs is None}
    values = " and ".join(f"{name} {getattr(schedule, name):g}" for name, derived in told.items() if derived)
    return (f"{values}, from the number of rows: {schedule.rows:,} make {schedule.steps:,} steps",) if values else ()


def _aside(examples: Sequence[Example], held_out: Sequence[Example]) -> tuple[str, ...]:
    """A sentence on which rows are learned and which are held out, if it is not obvious."""
    rows = len(examples) + len(held_out)
    distinct = _distinct((*examples, *held_out))
    repeated = f" ({distinct:,} of them distinct)" if distinct < rows else ""
    if not held_out:
        return (
            f"{rows:,} rows{repeated} are too few to set some aside: all are learned, and the adapter is "
            "that of the last step; to watch the run on other rows, give `held_out=FILE`",
        )
    if not repeated or _learned_too(examples, held_out):
        return ()
    return (f"{rows:,} rows{repeated}: equal rows are all learned or all held out",)


def _distinct(examples: Sequence[Example]) -> int:
    return len({example.tokens for example in examples})


def _counted(examples: Sequence[Example]) -> str:
    """The number of rows, and how many of them are distinct."""
    rows, distinct = len(examples), _distinct(examples)
    return f"{rows}" if rows == distinct else f"{distinct} distinct of {rows}"


def _too_few(schedule: Schedule, examples: Sequence[Example], held_out: Sequence[Example]) -> tuple[str, ...]:
    told = []
    if _distinct(examples) < _FEW_ROWS:
        told.append(
            f"too few rows ({_counted(examples)}) for more than repeating them: write more of them, 50 at least"
        )
    if schedule.steps < FEW_STEPS:
        told.append(
            f"too few steps ({schedule.steps}) to learn much: take fewer rows a step (rows_per_step is "
            f"{schedule.rows_per_step}), more epochs (epochs is {schedule.epochs:g}), or more rows"
        )
    if 0 < _distinct(held_out) < FEW_HELD_OUT:
        told.append(
            f"too few held-out rows ({_counted(held_out)}) to choose the best adapter by: give {FEW_HELD_OUT} or more, "
            "or none"
        )
    return tuple(told)


def _learned_too(examples: Sequence[Example], held_out: Sequence[Example]) -> tuple[str, ...]:
    learned = {example.tokens for example in examples}
    both = sum(example.tokens in learned for example in held_out)
    if not both:
        return ()
    return (
        f"{both} of {len(held_out)} held-out rows are also learned, so that the held-out loss looks better than it is: "
        "take them out of one of the two files",
    )
