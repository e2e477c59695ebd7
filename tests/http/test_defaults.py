"""What a request over HTTP gets where it says nothing: a limit of tokens, and the base's own sampling."""

from dataclasses import replace

import pytest
from conftest import LIMITS
from events import events_of
from starlette.testclient import TestClient

from kameleon.errors import SettingError
from kameleon.http import create_app
from kameleon.serving import Limits
from kameleon.settings import Sampling

HI = [{"role": "user", "content": "Hello there"}]
OWN = {"temperature": 0.9, "top_p": 0.8, "top_k": 30, "min_p": 0.01, "repetition_penalty": 1.3}


@pytest.fixture
def served(make_service, shelf):
    """A client of a server with this default limit."""

    def serve(default_max_tokens):
        limits = replace(LIMITS, default_max_tokens=default_max_tokens)
        return TestClient(create_app(make_service(limits)), base_url="http://127.0.0.1")

    return serve


@pytest.fixture
def own_client(tiny, shelf, make_service):
    """A client of a server over a base that recommends values of its own."""
    tiny.base = replace(tiny.base, sampling=Sampling(**OWN))
    return TestClient(create_app(make_service()), base_url="http://127.0.0.1")


def chat(client, **fields):
    """A chat whose answer finds no end by itself."""
    wish = {"model": "tiny", "messages": HI, "ignore_eos": True, "temperature": 0, **fields}
    return client.post("/v1/chat/completions", json=wish)


def text(response):
    choice = response.json()["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def test_a_chat_without_max_tokens_ends_at_the_servers_limit_and_says_so(served):
    client = served(default_max_tokens=20)
    answer = chat(client, model="law").json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (20, "length")
    last = events_of(chat(client, stream=True, stream_options={"include_usage": True}))[-2:]
    assert (last[1]["usage"]["completion_tokens"], last[0]["choices"][0]["finish_reason"]) == (20, "length")
    several = chat(client, n=3).json()
    assert several["usage"]["completion_tokens"] == 60
    assert {choice["finish_reason"] for choice in several["choices"]} == {"length"}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_chat_may_ask_for_more_than_the_default_or_less(served, name):
    client = served(default_max_tokens=20)
    assert chat(client, **{name: 45}).json()["usage"]["completion_tokens"] == 45
    assert chat(client, **{name: 3}).json()["usage"]["completion_tokens"] == 3


def test_the_default_is_never_more_than_the_room_behind_the_prompt(client, tiny):
    assert Limits().default_max_tokens == 512 > tiny.base.config.max_sequence_tokens
    answer = chat(client).json()
    assert answer["usage"]["total_tokens"] == tiny.base.config.max_sequence_tokens
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_structured_answer_that_meets_the_limit_is_cut_and_says_so(served):
    client = served(default_max_tokens=5)
    schema = {"type": "object", "properties": {"name": {"type": "string", "minLength": 40}}, "required": ["name"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    choice = chat(client, ignore_eos=None, response_format=form).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("{")


def test_a_limit_below_one_is_refused():
    with pytest.raises(SettingError, match="default_max_tokens is 0; it must be from 1"):
        Limits(default_max_tokens=0)


@pytest.mark.parametrize("model", ["tiny", "law"])
def test_what_a_request_does_not_say_is_what_the_base_recommends(own_client, model):
    """The same seed gives the same text only where all else is the same too."""
    wish = {"model": model, "seed": 4, "max_tokens": 24}
    unsaid = text(chat(own_client, **wish, temperature=None))
    assert unsaid == text(chat(own_client, **wish, **OWN))
    assert unsaid != text(chat(own_client, **wish, temperature=None, repetition_penalty=1.0))
    prompt = {**wish, "prompt": "one", "ignore_eos": True}
    assert text(own_client.post("/v1/completions", json=prompt)) == text(
        own_client.post("/v1/completions", json=prompt | OWN)
    )


def test_a_base_that_recommends_nothing_is_sampled_as_suits_small_ones(client):
    wish = {"seed": 4, "max_tokens": 24}
    unsaid = text(chat(client, **wish, temperature=None))
    assert unsaid == text(chat(client, **wish, temperature=0.2, top_p=0.9))
    assert unsaid != text(chat(client, **wish, temperature=1.0, top_p=1.0))


def test_every_value_that_a_request_gives_is_honoured_the_neutral_ones_too(own_client, tiny):
    greedy = chat(own_client, temperature=0, repetition_penalty=1.0, max_tokens=12, ignore_eos=None)
    (expected,) = tiny.generate([HI], sampling=Sampling(max_tokens=12))
    assert text(greedy) == expected.text
    free = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "seed": 2, "max_tokens": 24}
    assert text(chat(own_client, **free, top_k=-1)) == text(chat(own_client, **free, top_k=0))
    assert text(chat(own_client, **free, top_k=-1)) != text(chat(own_client, **free))
