"""What a request may wish of its tokens: penalties, biases, scores, grammars."""

import json
import math
import re

import pytest
import torch

from kameleon import Sampling
from kameleon.errors import SettingError
from kameleon.generation import choose, new_generator


def said(tiny, text="hello", **wish):
    return tiny.generate([text], sampling=Sampling(**{"max_tokens": 12, **wish}))[0]


def test_a_bias_forbids_or_demands_a_token(tiny):
    plain = said(tiny)
    forbidden = said(tiny, logit_bias=((plain.tokens[0], -100.0),))
    assert plain.tokens[0] not in forbidden.tokens
    assert set(said(tiny, logit_bias=((65, 100.0),)).tokens) == {65}


def test_penalties_make_repeating_less_likely(tiny):
    pull = ((65, 100.0), (66, 99.5), (67, 99.0))
    assert (
        said(tiny, logit_bias=pull, max_tokens=3).tokens
        != said(tiny, logit_bias=pull, max_tokens=3, presence_penalty=2.0).tokens
    )
    often = said(tiny, logit_bias=((65, 100.0), (66, 100.0)), frequency_penalty=2.0, max_tokens=12)
    assert set(often.tokens) == {65, 66}
    repeated = said(tiny, repetition_penalty=1e6, max_tokens=20)
    assert len(set(repeated.tokens)) == len(repeated.tokens)


def test_scores_are_the_models_own_probabilities(tiny):
    got = said(tiny, logprobs=3, temperature=2.0, seed=5, logit_bias=((65, 5.0),), max_tokens=4)
    assert [s.token for s in got.scores] == list(got.tokens)
    for one in got.scores:
        values = [v for _, v in one.alternatives]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert one.logprob <= values[0] + 1e-6
    greedy = said(tiny, logprobs=0, max_tokens=4)
    assert all(s.alternatives == () and s.logprob < 0 for s in greedy.scores)
    assert said(tiny, max_tokens=4).scores == ()


def test_min_p_leaves_what_is_likely_beside_the_likeliest():
    logits = torch.tensor([0.0, 3.0, 2.9, 1.0])
    generator = new_generator(0)
    for more in ({}, {"top_p": 0.99}, {"top_k": 4}):
        wish = Sampling(temperature=1.0, min_p=0.5, **more)
        assert {choose(logits, wish, generator) for _ in range(200)} == {1, 2}


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": 1e-40},
        {"temperature": 1e-300},
        {"temperature": 1.0, "top_p": 1e-50},
        {"temperature": 1.0, "top_p": 1e-50, "top_k": 5},
        {"temperature": 1.0, "repetition_penalty": 1e-40, "logprobs": 1},
        {"temperature": 1.0, "repetition_penalty": 1e6},
    ],
    ids=str,
)
def test_the_most_extreme_wishes_still_choose_a_token(tiny, wish):
    got = said(tiny, seed=3, **wish)
    assert got.finish == "length" and len(got.tokens) == 12
    if wish["temperature"] < 1 or "top_p" in wish:
        assert got.tokens == said(tiny).tokens


def test_a_large_top_p_looks_beyond_the_first_thousand_tokens():
    logits = torch.zeros(5000)
    generator = new_generator(0)
    wish = Sampling(temperature=1.0, top_p=0.999)
    assert max(choose(logits, wish, generator) for _ in range(50)) > 1500


def test_an_answer_follows_its_json_schema(tiny):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    got = said(tiny, json_schema=json.dumps(schema), max_tokens=200, temperature=1.0, seed=1)
    value = json.loads(got.text)
    assert set(value) == {"name", "age"} and len(value["name"]) <= 5 and isinstance(value["age"], int)
    assert got.finish == "stop"


def test_an_answer_follows_its_regular_expression_beside_free_ones(tiny):
    expression = r"(cat|dog) [0-9]{3}"
    wishes = [Sampling(max_tokens=30, regex=expression), Sampling(max_tokens=8)]
    got, free = tiny.generate(["hello", "hello"], sampling=wishes)
    assert re.fullmatch(expression, got.text) and got.finish == "stop"
    assert free.tokens == said(tiny, max_tokens=8).tokens


@pytest.mark.parametrize(
    "wish",
    [
        {"json_schema": "not json"},
        {"json_schema": '{"type": "nonsense"}'},
        {"regex": "(unclosed"},
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused_at_once(tiny, wish):
    with pytest.raises(SettingError, match=next(iter(wish))):
        said(tiny, **wish)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"json_schema": "{}", "regex": "a"}, "both given"),
    ],
)
def test_impossible_wishes_are_refused(wish, told):
    with pytest.raises(SettingError, match=told):
        Sampling(**wish)
