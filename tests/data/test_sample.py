"""A sample stands for the whole, and is the same every time."""

from hypothesis import given
from hypothesis import strategies as st

from kameleon.data import sample


@given(count=st.integers(0, 300), most=st.integers(0, 300), seed=st.integers(0, 9))
def test_a_sample_has_so_many_different_items_in_their_order(count, most, seed):
    got = sample(range(count), most, seed=seed)
    assert len(got) == min(count, most) and got == sorted(set(got))
    assert got == sample(range(count), most, seed=seed)
    assert most < count or got == list(range(count))


@given(first=st.integers(0, 200), second=st.integers(0, 200), most=st.integers(1, 200))
def test_each_part_of_a_file_is_in_a_sample_by_its_share(first, second, most):
    got = sample(["a"] * first + ["b"] * second, most)
    assert abs(got.count("a") - len(got) * first / max(1, first + second)) <= 1


def test_the_seed_decides():
    assert len({tuple(sample(range(500), 20, seed=seed)) for seed in range(5)}) == 5
