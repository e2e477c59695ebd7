"""Packed passes and the order of rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kameleon.data import Example, pack
from kameleon.ops import IGNORE, NO_PARENT


@st.composite
def examples_of_any_kind(draw):
    """Rows that often open alike, of few different tokens, trained anywhere."""
    opening = draw(st.lists(st.integers(0, 3), max_size=20))
    made = []
    for row in range(draw(st.integers(1, 8))):
        begin = opening[: draw(st.sampled_from([len(opening), len(opening), 0, len(opening) // 2]))]
        tokens = begin + draw(st.lists(st.integers(0, 3), min_size=0 if begin else 1, max_size=12))
        first = draw(st.integers(0, len(tokens)))
        mask = draw(st.sampled_from(["answer", "free"]))
        trained = [i >= first if mask == "answer" else i >= first and draw(st.booleans()) for i in range(len(tokens))]
        made.append(Example(row + 10, tuple(tokens), tuple(trained)))
    return made


def recovered(packed):
    """Of each span: row, tokens, labels and positions of its whole sequence, and its segments."""
    segments = packed.segments
    for span in packed.spans:
        own = segments.starts.index(span.start)
        parent = segments.parents[own]
        assert segments.lengths[own] == span.stop - span.start
        places = list(range(span.start, span.stop))
        if parent != NO_PARENT:
            begin = segments.starts[parent]
            places = [*range(begin, begin + segments.lengths[parent]), *places]
        place = torch.tensor(places)
        yield span, packed.tokens[place], packed.labels[place], segments.positions[place], parent


@given(examples=examples_of_any_kind(), max_tokens=st.integers(1, 60))
def test_every_row_is_recovered_exactly_from_its_pass(examples, max_tokens):
    seen = []
    for packed in pack(examples, max_tokens, adapter=2):
        assert packed.tokens.dtype == packed.labels.dtype == torch.int64
        assert len(packed.tokens) == len(packed.labels) == packed.segments.tokens
        assert len(packed.segments.lengths) == len(packed.spans) + any(p != NO_PARENT for p in packed.segments.parents)
        for span, tokens, labels, positions, _ in recovered(packed):
            example = examples[span.row]
            seen.append(span.row)
            stop = len(tokens)
            assert tuple(tokens.tolist()) == example.tokens[:stop]
            following = [t if trained else IGNORE for t, trained in zip(example.tokens, example.trained, strict=True)]
            assert labels.tolist() == [*following[1:], IGNORE][:stop]
            assert not any(example.trained[stop + 1 :]) and (labels[-1] != IGNORE or not any(example.trained[1:]))
            assert positions.tolist() == list(range(stop))
    assert sorted(seen) == list(range(len(examples)))


@given(examples=examples_of_any_kind(), max_tokens=st.integers(1, 60))
def test_a_pass_holds_max_tokens_unless_a_single_row_is_longer(examples, max_tokens):
    for packed in pack(examples, max_tokens, adapter=0):
        assert len(packed.tokens) <= max_tokens or len(packed.spans) == 1


@given(examples=examples_of_any_kind(), max_tokens=st.integers(1, 60), adapter=st.integers(-1, 5))
def test_every_segment_goes_through_the_adapter_and_a_shared_opening_has_no_label(examples, max_tokens, adapter):
    for packed in pack(examples, max_tokens, adapter=adapter):
        assert set(packed.segments.adapters) == {adapter}
        for parent in {p for p in packed.segments.parents if p != NO_PARENT}:
            begin = packed.segments.starts[parent]
            assert (packed.labels[begin : begin + packed.segments.lengths[parent]] == IGNORE).all()


def chats(*answers, system=tuple(range(100, 120))):
    """Rows with one long opening, a question of their own and an answer."""
    return [
        Example(i, (*system, 50 + i, *answer), (False,) * (len(system) + 1) + (True,) * len(answer))
        for i, answer in enumerate(answers)
    ]


def test_a_long_common_opening_is_stored_once():
    (packed,) = pack(chats((1, 2), (3,), (4, 5)), 100, adapter=0)
    assert packed.segments.lengths == (20, 1, 2, 2) and packed.segments.parents == (NO_PARENT, 0, 0, 0)
    assert len(packed.tokens) == 25


def test_each_pass_has_the_opening_anew_and_a_lone_row_has_it_as_its_own():
    packed = pack(chats((1, 2), (3, 3), (4, 5)), 25, adapter=0)
    assert [p.segments.lengths for p in packed] == [(20, 2, 2), (22,)]


@pytest.mark.parametrize("common", [7, 8])
def test_a_short_common_opening_is_not_shared(common):
    packed = pack(chats((1, 2), (3, 4), system=tuple(range(100, 100 + common))), 100, adapter=0)
    assert packed[0].segments.lengths == ((8, 2, 2) if common == 8 else (9, 9))


def test_an_opening_is_shared_only_before_anything_learned():
    """The last token of the opening would have to predict a learned one."""
    rows = [Example(i, (*range(100, 120), i), (False,) * 12 + (True,) * 9) for i in range(2)]
    assert pack(rows, 100, adapter=0)[0].segments.lengths == (11, 9, 9)


@pytest.mark.parametrize("learned", [False, True])
def test_the_same_row_twice_still_has_tokens_of_its_own(learned):
    rows = [Example(i, tuple(range(20)), (False,) * 19 + (learned,)) for i in range(2)]
    assert pack(rows, 100, adapter=0)[0].segments.lengths == ((18, 1, 1) if learned else (19, 1, 1))


def test_a_row_longer_than_a_pass_has_one_of_its_own():
    rows = [Example(i, tuple(range(i, i + n)), (True,) * n) for i, n in enumerate((3, 30, 4))]
    packed = pack(rows, 10, adapter=0)
    assert [[s.row for s in p.spans] for p in packed] == [[0, 2], [1]]


def test_nothing_packs_to_nothing():
    assert pack([], 10, adapter=0) == []
