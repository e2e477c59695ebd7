"""Which rows a run learns from in which step, and how fast."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kameleon import Recipe, Watch
from kameleon.errors import SettingError
from kameleon.training import Schedule
from kameleon.training.schedule import LOOKS, learning_rate_at, look_is_due

RUNS = {"rows": st.integers(1, 40), "rows_per_step": st.integers(1, 50), "seed": st.integers(0, 9)}


@given(**RUNS, hundredths=st.integers(1, 350))
def test_a_run_visits_each_row_as_often_as_asked_and_no_step_has_a_row_twice(rows, rows_per_step, seed, hundredths):
    schedule = Schedule(rows, hundredths / 100, rows_per_step, seed)
    steps = [schedule.rows_of(step) for step in range(schedule.steps)]
    visits = [row for step in steps for row in step]
    assert len(visits) == schedule.visits == max(1, -(-rows * hundredths // 100))
    assert all(1 <= len(step) == len(set(step)) <= rows_per_step for step in steps)
    for epoch in range(hundredths // 100):
        assert sorted(visits[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert len(set(visits[rows * (hundredths // 100) :])) == schedule.visits - rows * (hundredths // 100)
    assert max(map(len, steps)) == len(steps[0])  # what a plan takes as the largest
    whole = [len(step) for step in steps[: schedule.steps_per_epoch * (hundredths // 100)]]
    assert not whole or max(whole) - min(whole) <= 1


@pytest.mark.parametrize(
    ("rows", "epochs", "rows_per_step", "sizes"),
    [
        (17, 1, 16, [9, 8]),
        (3, 2, 16, [3, 3]),
        (20, 1.5, 8, [7, 7, 6, 5, 5]),
        (100, 0.07, 16, [7]),
        (1, 0.001, 4, [1]),
    ],
)
def test_an_epoch_is_cut_into_steps_of_equal_size(rows, epochs, rows_per_step, sizes):
    schedule = Schedule(rows, epochs, rows_per_step, 0)
    assert [len(schedule.rows_of(step)) for step in range(schedule.steps)] == sizes


@given(**RUNS, step=st.integers(0, 100))
def test_a_step_takes_the_same_rows_wherever_a_run_resumes(rows, rows_per_step, seed, step):
    schedule = Schedule(rows, 102, rows_per_step, seed)
    got = schedule.rows_of(step)
    Schedule(rows, 102, rows_per_step, seed + 1).rows_of(step + 1)
    assert schedule.rows_of(step) == got


def test_epochs_and_seeds_each_have_an_order_of_their_own():
    orders = {tuple(Schedule(50, 4, 50, seed).rows_of(epoch)) for epoch in range(4) for seed in range(4)}
    assert len(orders) == 16 and tuple(range(50)) not in orders


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rates = [learning_rate_at(step / 100, (step + 1) / 100, peak=1.0, warmup=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 <= rates[-1] < 0.11


@pytest.mark.parametrize("warmup", [0, 0.05, 1])
def test_the_first_step_of_a_short_run_learns(warmup):
    rates = [learning_rate_at(step / 4, (step + 1) / 4, peak=1.0, warmup=warmup) for step in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0]) if warmup == 1 else rates[0] == 1.0


@given(steps=st.integers(1, 500), every=st.integers(0, 60))
def test_looks_are_spread_evenly_and_the_last_step_has_one(steps, every):
    schedule = Schedule(steps, 1, 1, 0)
    due = [step for step in range(1, steps + 1) if look_is_due(schedule.share(step - 1), schedule.share(step))]
    assert due[-1] == steps and len(due) == schedule.looks(None) == min(LOOKS, steps)
    assert all(math.floor(steps / LOOKS) <= b - a <= math.ceil(steps / LOOKS) for a, b in pairwise(due))
    if every:
        assert schedule.looks(every) == len({step for step in range(1, steps + 1) if step % every == 0} | {steps})


@pytest.mark.parametrize(
    "values", [{"epochs": 1e308}, {"epochs": math.nan}, {"rows_per_step": 10**12}, {"rows": 10**12}, {"rows": 0}]
)
def test_numbers_beyond_any_use_are_refused_by_their_name(values):
    with pytest.raises(SettingError, match=f"{next(iter(values))} is .*; it must be"):
        Recipe(**values)


def test_nan_is_no_time_between_checkpoints():
    with pytest.raises(SettingError, match="save_every_s is nan"):
        Watch(save_every_s=math.nan)
