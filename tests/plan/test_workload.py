"""A plan's passes are those that a run makes."""

import pytest

from kameleon import Execution, Recipe, Watch
from kameleon.data import Example, pack
from kameleon.plan import Pass, assumed_workload, workload_of
from kameleon.training import Schedule


def rows(count, tokens, shared=0):
    return [
        Example(
            i, (*range(shared), *range(100 * i + 100, 100 * i + 100 + tokens)), (False,) * shared + (True,) * tokens
        )
        for i in range(count)
    ]


def test_passes_are_those_of_the_run():
    examples, recipe = rows(20, 30), Recipe(rows_per_step=8, epochs=2)
    work = workload_of(examples, rows(3, 10), recipe, Watch(), Execution(100))
    made = [
        Pass.of(packed)
        for step in range(6)
        for packed in pack([examples[r] for r in Schedule(20, 2, 8, 0).rows_of(step)], 100, adapter=0)
    ]
    assert work.passes == tuple(made)
    assert (work.steps, work.schedule.steps_per_epoch, work.looks) == (6, 3, 6)
    assert work.tokens == sum(p.tokens for p in made)
    assert [p.tokens for p in work.look] == [sum(len(p.tokens) for p in pack(rows(3, 10), 100, adapter=0))]


def test_a_shared_beginning_counts_once_as_tokens_and_for_every_row_as_keys():
    (one,) = workload_of(rows(4, 10, shared=20), (), Recipe(epochs=1, rows_per_step=4), Watch(), Execution()).passes
    shared, own = 19, 10  # the last token before the answer predicts a learned one; the answer's last predicts nothing
    assert one.tokens == shared + 4 * own
    assert one.seen == one.tokens + 4 * shared
    assert one.squares == shared**2 + 4 * own * (own + 2 * shared)


def test_of_a_long_run_some_steps_stand_for_all_and_the_longest_row_is_among_them():
    examples = [*rows(4000, 10), *rows(1, 90)]
    work = workload_of(examples, (), Recipe(rows_per_step=2), Watch(), Execution(40))
    assert work.sampled_steps < 100 < work.steps
    assert work.largest.tokens == 89


@pytest.mark.parametrize("tokens", [16, 600])
def test_without_rows_some_are_assumed_and_told(tokens):
    work = assumed_workload(tokens, 1000, Recipe(), Execution())
    assert work.steps == 63
    assert sum(p.tokens for p in work.passes) == 16 * (tokens - 1)
    assert "1,000 rows" in work.assumed
    assert all(p.seen == p.tokens for p in work.passes)


def test_a_plan_without_data_lays_out_a_part_of_a_huge_step():
    huge = assumed_workload(64, 10**8, Recipe(rows_per_step=2**16), Execution())
    small = assumed_workload(64, 10**8, Recipe(rows_per_step=256), Execution())
    assert huge.tokens == pytest.approx(small.tokens, rel=0.01)


def test_rows_and_held_out_rows_that_are_equal_count_once_where_too_few_are_told():
    rows, held_out = (
        [Example(i, (1, 2, 3 + i % 5), (False, True, True)) for i in range(400)],
        [Example(1, (9, 9), (False, True))] * 64,
    )
    told = workload_of(rows, held_out, Recipe(), Watch(), Execution()).warnings
    assert any("too few rows (5 distinct of 400)" in one for one in told)
    assert any("too few held-out rows (1 distinct of 64)" in one for one in told)
