"""A choice costs the same however much a request brings, and is the one of penalties and biases computed anew."""

import math
from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon import Sampling
from kameleon.errors import SettingError, WrongTypeError
from kameleon.generation import Chooser, Request, choose, new_generator
from kameleon.settings.generation import MOST_BIASES, MOST_STOP_CHARACTERS, MOST_STOPS

VOCABULARY = 40


def computed_anew(logits, one, prompt, answer, generator):
    """The next token, from the whole prompt and the whole answer so far."""
    counts = Counter(answer)
    for token in {*prompt, *answer} if one.repetition_penalty != 1 else ():
        there = logits[token]
        logits[token] = there / one.repetition_penalty if there > 0 else there * one.repetition_penalty
    if one.presence_penalty or one.frequency_penalty:
        for token, times in counts.items():
            logits[token] -= one.presence_penalty + one.frequency_penalty * torch.tensor(float(times))
    for token, bias in one.logit_bias:
        logits[token] += bias
    return choose(logits, one, generator)


@settings(max_examples=15)
@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=10),
    biases=st.dictionaries(st.integers(0, VOCABULARY - 1), st.integers(-3, 3) | st.floats(-3, 3), max_size=5),
    repetition=st.sampled_from([1, 1.5, 0.8]),
    presence=st.sampled_from([0, 1.5]),
    frequency=st.sampled_from([0, 0.7]),
    temperature=st.sampled_from([0, 1.5]),
    seed=st.integers(0, 1000),
)
def test_choices_are_those_of_penalties_over_the_whole_prompt_and_answer(
    prompt, biases, repetition, presence, frequency, temperature, seed
):
    wish = Sampling(
        temperature=temperature,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(biases.items()),
        seed=seed,
    )
    chooser = Chooser(Request(tuple(prompt), None, wish), None)
    answer, generator = [], new_generator(seed)
    for row in torch.randn(8, VOCABULARY, generator=torch.Generator().manual_seed(seed)):
        expected = computed_anew(row.clone(), wish, prompt, answer, generator)
        answer.append(chooser.choose(row).token)
        assert answer[-1] == expected


class Watched(tuple):
    """A tuple that knows whether it was read since `reads` was set to 0."""

    reads = 0

    def __iter__(self):
        Watched.reads += 1
        return super().__iter__()


def test_what_a_request_brings_is_read_once_and_not_for_each_token():
    wish = Sampling(logit_bias=Watched((i % 40, 1.0) for i in range(1000)), repetition_penalty=1.5)
    chooser = Chooser(Request(Watched(range(30)), None, wish), None)
    Watched.reads = 0
    for row in torch.randn(5, VOCABULARY):
        chooser.choose(row)
    assert Watched.reads == 0


def test_a_top_p_beyond_the_first_thousand_tokens_chooses_in_the_order_of_topk():
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(0)).mul(8).round() / 8  # many are equal
    wish, generator = Sampling(temperature=3.0, top_p=0.99), new_generator(7)
    probabilities = ((logits - logits.max()) / 3.0).softmax(-1)
    values, tokens = probabilities.topk(3000)
    kept = values * (values.cumsum(-1) - values < 0.99)
    other = new_generator(7)
    for _ in range(50):
        assert choose(logits, wish, generator) == int(tokens[drawn(kept, other)])


def drawn(weights, generator):
    """Slowly: the first place where the running sum of the weights passes a random share of their sum."""
    sums = list(accumulate(weights.tolist()))
    share = float(torch.rand((), generator=generator, dtype=torch.float64)) * sums[-1]
    return next(place for place, so_far in enumerate(sums) if so_far > share)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([0.0, 1.0, -math.inf, 2.0, -math.inf])
    generator, times = new_generator(3), 2_000
    counts = Counter(choose(logits, Sampling(temperature=1.0), generator) for _ in range(times))
    assert {token: counts[token] / times for token in range(5)} == pytest.approx(
        dict(enumerate(logits.softmax(-1).tolist())), abs=0.04
    )
    assert counts[2] == counts[4] == 0


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"logit_bias": tuple((i, 1.0) for i in range(MOST_BIASES + 1))}, "logit_bias has 1,025 tokens; at most 1,024"),
        ({"logit_bias": ((5, 1.0), (7, -101))}, "logit_bias has -101 .*for token 7; it must"),
        ({"stop": ("a",) * (MOST_STOPS + 1)}, "stop has 17 strings; at most 16"),
        ({"stop": ("a" * (MOST_STOP_CHARACTERS + 1),)}, "stop has a string of 1,001 characters; the most is 1,000"),
    ],
)
def test_more_than_a_client_needs_is_refused_with_the_limit_and_not_repeated(wish, told):
    with pytest.raises(SettingError, match=told) as caught:
        Sampling(**wish)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("wish", [{"temperature": 10**400}, {"repetition_penalty": 10**400}], ids=str)
def test_a_number_beyond_all_floats_is_refused_by_name(wish):
    with pytest.raises(WrongTypeError, match=next(iter(wish))):
        Sampling(**wish)
