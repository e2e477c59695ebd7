"""Owners share equally, keys before their users, and nothing that somebody wants is left over."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon.generation.shares import Tally, split


@dataclass(frozen=True)
class Asking:
    owner: tuple
    number: int = 0


ASKING = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(1, 50)), min_size=1, max_size=8)


@settings(max_examples=60)
@given(asking=ASKING, amount=st.integers(0, 120))
def test_a_key_gets_its_share_of_what_it_wants_and_all_is_given(asking, amount):
    wants = [(Asking((key, user), i), wish) for i, (key, user, wish) in enumerate(asking)]
    given_to = dict(split(amount, wants))
    assert len(given_to) == len(wants) and sum(given_to.values()) == min(amount, sum(wish for _, wish in wants))
    assert all(0 <= given_to[one] <= wish for one, wish in wants)
    for key in {one.owner[0] for one, _ in wants}:
        mine = [(one, wish) for one, wish in wants if one.owner[0] == key]
        others = len({one.owner[0] for one, _ in wants})
        assert sum(given_to[one] for one, _ in mine) >= min(amount // others, sum(wish for _, wish in mine))


def test_those_of_one_owner_are_served_in_their_order():
    wants = [(Asking((), i), 10) for i in range(3)]
    assert [tokens for _, tokens in split(15, wants)] == [10, 5, 0]


def test_who_runs_most_gives_way_by_key_before_user_and_keeps_one():
    a = [Asking(("a", f"user {i}"), i) for i in range(3)]
    b = [Asking(("b", "x"), 3)]
    assert Tally([*a, *b]).gives_way_to(("c", "y")) is a[2]
    assert Tally([*a, *b]).gives_way_to(("b", "x")) is a[2]
    assert Tally([*a, *b]).gives_way_to(("b", "x")) is not None
    assert Tally([*a, *b], waiting=b).gives_way_to(("b", "x")) is None  # one more of b waits already
    assert Tally([*a, *b]).gives_way_to(("a", "another")) is None
    assert Tally([a[0], a[0], *b]).gives_way_to(("a", "another")) is a[0]
    assert Tally([a[0], *b]).gives_way_to(("c", "y")) is None  # the last of a key ends
    assert Tally([]).gives_way_to(("c", "y")) is None
