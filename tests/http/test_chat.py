"""Chat over HTTP, through the real application: the same answers as in Python, whole and as a stream."""

from dataclasses import replace

import pytest
from events import events_of
from fakes import random_adapter

from kameleon.generation import Sampling

HI = [{"role": "user", "content": "Hello there"}]


def ask(client, **fields):
    wish = {"model": "tiny", "messages": HI, "max_tokens": 12, "temperature": 0, **fields}
    return client.post("/v1/chat/completions", json=wish)


@pytest.mark.parametrize(("model", "adapter"), [("tiny", None), ("law", "law"), ("tiny:medicine", "medicine")])
def test_an_answer_is_the_one_that_python_gives(client, tiny, model, adapter):
    (expected,) = tiny.generate([HI], adapters=[adapter], sampling=Sampling(max_tokens=12))
    answer = ask(client, model=model).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == (adapter or "tiny")
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == expected.finish
    assert answer["usage"]["prompt_tokens"] == len(tiny.encode_prompt(HI))
    assert answer["usage"]["completion_tokens"] == len(expected.tokens)


def test_adapters_and_base_answer_differently(client):
    texts = {
        ask(client, model=model).json()["choices"][0]["message"]["content"] for model in ("tiny", "law", "medicine")
    }
    assert len(texts) == 3


def test_a_stream_holds_the_same_text_with_role_first_and_counts_last(client):
    whole = ask(client, model="law").json()
    response = ask(client, model="law", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last = events_of(response)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert (
        "".join(e["choices"][0]["delta"].get("content", "") for e in middle)
        == (whole["choices"][0]["message"]["content"])
    )
    assert middle[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert all(event["usage"] is None for event in [first, *middle])
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert {event["id"] for event in [first, *middle, last]} == {first["id"]}


def test_several_answers_follow_their_own_seeds(client):
    both = ask(client, n=2, temperature=1.5, seed=5).json()["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    assert both[0]["message"] != both[1]["message"]
    again = ask(client, n=2, temperature=1.5, seed=5, stream=True)
    texts = ["", ""]
    for event in events_of(again):
        texts[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in both]


def test_each_token_comes_with_its_probability_and_the_likeliest_others(client):
    answer = ask(client, logprobs=True, top_logprobs=3).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for one in content:
        assert len(one["top_logprobs"]) == 3
        assert one["logprob"] == one["top_logprobs"][0]["logprob"] <= 0  # greedy
    streamed = [e["choices"][0]["logprobs"] for e in events_of(ask(client, logprobs=True, top_logprobs=3, stream=True))]
    again = [one for logprobs in streamed if logprobs for one in logprobs["content"]]
    assert [one["token"] for one in again] == [one["token"] for one in content]
    for one, other in zip(again, content, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_a_stop_string_ends_the_answer_before_it(client):
    whole = ask(client, model="law").json()["choices"][0]["message"]["content"]
    cut = ask(client, model="law", stop=whole[1:3]).json()["choices"][0]
    assert cut["message"]["content"] == whole[: whole.index(whole[1:3])]
    assert cut["finish_reason"] == "stop"


def test_logit_bias_can_forbid_and_force(client):
    forced = ask(client, logit_bias={"65": 100}, max_tokens=4).json()["choices"][0]["message"]["content"]
    assert len(set(forced)) == 1
    ended = ask(client, logit_bias={"257": 100}).json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] == 0
    going_on = ask(client, logit_bias={"257": 100}, ignore_eos=True, max_tokens=3).json()
    assert going_on["usage"]["completion_tokens"] == 3


def test_what_is_sent_back_is_taken_as_it_came(client):
    message = ask(client).json()["choices"][0]["message"]
    longer = [*HI, message, {"role": "user", "content": [{"type": "text", "text": "Go on"}]}]
    assert ask(client, messages=longer).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "lawe"}, 404, "model", "did you mean 'law'"),
        ({"model": "../../etc/passwd"}, 404, "model", "no model"),
        ({"model": "\0"}, 404, "model", "no model"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": "hi"}, 400, "messages", "list"),
        ({"messages": [{"role": "king", "content": "hi"}]}, 400, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, None, "maximum context length is 256 tokens"),
        ({"messages": [{"role": "user", "content": "x" * 200_000}]}, 400, None, "200"),
        ({"temperature": "warm"}, 400, "temperature", "number"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater"),
        ({"n": 1000}, 400, "n", "64"),
        ({"seed": 2**64}, 400, "seed", "less"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort", "no thinking to switch"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs: true"),
        ({"logit_bias": {"soup": 1}}, 400, None, "numbers of tokens"),
        ({"logit_bias": {"999999": 1}}, 400, None, "not one of the base's"),
        ({"stop": [""]}, 400, None, "empty stop string"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "knows no tools"),
        ({"tool_choice": "required"}, 400, "tool_choice", "no tools"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "json_schema"),
    ],
)
def test_what_cannot_be_served_is_refused_in_openais_shape(client, fields, status, param, words):
    response = ask(client, **fields)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 5000, b"null", b'{"model": "\\ud800", "messages": []}', b"\xff\xfe"]
)
def test_a_body_that_is_no_request_is_a_400(client, body):
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_an_error_before_the_first_token_of_a_stream_has_its_own_status(client):
    response = ask(client, model="nobody", stream=True)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


PIRATE = {"role": "system", "content": "You are a pirate."}


@pytest.fixture
def pirate(client, tiny):
    """A client, with an adapter on the shelf that was trained with a system prompt."""
    adapter = random_adapter(tiny.base, "pirate", 5)
    tiny.shelf.save(replace(adapter, card=replace(adapter.card, system_prompt=PIRATE["content"])))
    return client


def prompt_tokens(client, model, messages, **fields):
    return ask(client, model=model, messages=messages, **fields).json()["usage"]["prompt_tokens"]


def test_a_request_without_a_system_message_gets_that_of_its_adapter(pirate, tiny):
    begun = len(tiny.encode_prompt([PIRATE, *HI]))
    assert prompt_tokens(pirate, "pirate", HI) == prompt_tokens(pirate, "tiny:pirate", HI) == begun
    assert (
        ask(pirate, model="pirate").json()["choices"]
        == (ask(pirate, model="pirate", messages=[PIRATE, *HI]).json()["choices"])
    )
    assert prompt_tokens(pirate, "law", HI) == prompt_tokens(pirate, "tiny", HI) == len(tiny.encode_prompt(HI))
    last = events_of(ask(pirate, model="pirate", stream=True, stream_options={"include_usage": True}))[-1]
    assert last["usage"]["prompt_tokens"] == begun


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["", "No.", [{"type": "text", "text": "No."}]])
def test_a_system_message_of_the_request_takes_its_place_even_an_empty_one(role, content, pirate, tiny):
    text = content if isinstance(content, str) else content[0]["text"]
    own = len(tiny.encode_prompt([{"role": "system", "content": text}, *HI]))
    assert prompt_tokens(pirate, "pirate", [{"role": role, "content": content}, *HI]) == own


def test_text_that_is_completed_gets_no_system_prompt(pirate, tiny):
    wish = {"model": "pirate", "prompt": "one", "max_tokens": 1}
    got = pirate.post("/v1/completions", json=wish).json()
    assert got["usage"]["prompt_tokens"] == len(tiny.encode_prompt("one", raw=True))


def test_structured_answers_and_the_prefix_cache_go_on_with_a_system_prompt(pirate):
    form = {"type": "regex", "regex": "[ab]{4}"}
    first = ask(pirate, model="pirate", response_format=form).json()
    assert set(first["choices"][0]["message"]["content"]) <= set("ab")
    again = ask(pirate, model="pirate", response_format=form).json()
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16


def test_a_new_version_brings_its_own_system_prompt(pirate, tiny):
    before = prompt_tokens(pirate, "pirate", HI)
    adapter = tiny.shelf.load("pirate")
    tiny.shelf.save(replace(adapter, card=replace(adapter.card, system_prompt="You are a pirate, and a cook too.")))
    assert prompt_tokens(pirate, "pirate", HI) > before
    tiny.shelf.rollback("pirate")
    assert prompt_tokens(pirate, "pirate", HI) == before
