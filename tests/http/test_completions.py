"""Completions and embeddings over HTTP, through the real application."""

import base64
import struct

import pytest
import torch
from events import events_of

from kameleon.generation import Sampling
from kameleon.ops import Segments


def ask(client, **fields):
    return client.post("/v1/completions", json={"model": "tiny", "max_tokens": 8, "temperature": 0, **fields})


def test_prompts_are_continued_as_they_stand_each_with_its_answers_in_order(client, tiny):
    expected = tiny.generate(["one", "two"], adapters=["law", "law"], sampling=Sampling(max_tokens=8), raw=True)
    answer = ask(client, model="law", prompt=["one", "two"], n=2).json()
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in expected for _ in range(2)]
    assert answer["usage"]["prompt_tokens"] == sum(len(tiny.encode_prompt(p, raw=True)) for p in ("one", "two"))


def test_tokens_are_taken_as_they_are(client, tiny):
    tokens = list(tiny.base.template.encode_text("one"))
    assert ask(client, prompt=tokens).json()["choices"] == ask(client, prompt="one").json()["choices"]
    assert len(ask(client, prompt=[tokens, tokens]).json()["choices"]) == 2


def test_sixteen_tokens_are_the_default(client):
    answer = ask(client, prompt="one", max_tokens=None, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 16


def test_a_stream_holds_the_same_text_and_the_prompt_before_it_if_wished(client):
    answer = ask(client, prompt="one", echo=True).json()
    whole = answer["choices"][0]
    assert whole["text"].startswith("one")
    events = events_of(ask(client, prompt="one", echo=True, stream=True, stream_options={"include_usage": True}))
    *pieces, last = events
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["text"]
    assert last["usage"] == {**answer["usage"], "prompt_tokens_details": last["usage"]["prompt_tokens_details"]}


def test_probabilities_have_the_older_shape(client):
    logprobs = ask(client, prompt="one", logprobs=2).json()["choices"][0]["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(column) for column in logprobs.values()}) == 1
    assert logprobs["token_logprobs"][0] == max(logprobs["top_logprobs"][0].values())


def test_prompts_are_scored_where_echo_and_logprobs_meet(client, tiny):
    """What lm-eval's local-completions asks for: several prompts of tokens, one more token, all scored."""
    texts = ["one two three", "four"]
    prompts = [list(tiny.base.template.encode_text(text)) for text in texts]
    answer = ask(client, model="law", prompt=prompts, echo=True, logprobs=2, max_tokens=1).json()
    slot = tiny.bank.add(tiny.shelf.load("law"))
    for text, prompt, choice in zip(texts, prompts, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert len({len(column) for column in told.values()}) == 1
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        with torch.inference_mode():
            hidden = tiny.base.decoder.hidden(torch.tensor(prompt), Segments((len(prompt),), (slot,)), tiny.bank)
            expected = tiny.base.decoder.logits(hidden, [slot] * len(prompt), tiny.bank).log_softmax(-1)
        own = [float(row[token]) for row, token in zip(expected, prompt[1:], strict=False)]
        assert told["token_logprobs"][1:-1] == pytest.approx(own, abs=1e-4)
        best = [max(top.values()) for top in told["top_logprobs"][1:]]
        assert best == pytest.approx(expected.amax(-1).tolist(), abs=1e-4)
        assert choice["text"].startswith(text) and told["text_offset"][len(prompt)] == len(text)


def test_prompts_are_scored_without_generating_and_in_streams(client):
    whole = ask(client, prompt="one", echo=True, logprobs=1, max_tokens=0).json()
    (choice,) = whole["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("one", "length")
    assert whole["usage"]["completion_tokens"] == 0
    more = {"echo": True, "logprobs": 1, "max_tokens": 4, "ignore_eos": True}
    told = ask(client, prompt="one", **more).json()["choices"][0]["logprobs"]
    assert told["token_logprobs"][: len(choice["logprobs"]["tokens"])] == choice["logprobs"]["token_logprobs"]
    pieces = [event["choices"][0]["logprobs"] for event in events_of(ask(client, prompt="one", stream=True, **more))]
    for column, values in told.items():
        assert [value for piece in pieces for value in piece[column]] == values


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "at least 1"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [99999]}, "token 99999 is not one of 320"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1] * 256}, "maximum context length is 256 tokens"),
        ({"prompt": "one", "suffix": "three"}, "suffix"),
        ({"prompt": "one", "best_of": 3}, "best_of"),
        ({"prompt": "one", "max_tokens": 0}, "max_tokens is 0"),
        ({"prompt": ["one"] * 10, "n": 10}, "at most 64"),
    ],
)
def test_what_cannot_be_continued_is_a_400(client, fields, words):
    response = ask(client, **fields)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def embed(client, **fields):
    return client.post("/v1/embeddings", json={"model": "tiny", **fields})


def test_embeddings_have_length_one_and_differ_by_text_and_adapter(client, tiny):
    answer = embed(client, input=["one", "two"]).json()
    one, two = (entry["embedding"] for entry in answer["data"])
    assert len(one) == tiny.base.config.hidden_size
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-5)
    assert one != two
    assert embed(client, input="one", model="law").json()["data"][0]["embedding"] != one
    packed = embed(client, input="one", encoding_format="base64").json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(one)}f", base64.b64decode(packed))) == pytest.approx(one, abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(tiny.encode_prompt(p, raw=True)) for p in ("one", "two"))


def test_as_many_texts_as_a_request_may_hold_are_embedded_though_the_queue_is_shorter(client):
    answer = embed(client, input=[f"text {i % 3}" for i in range(2048)])
    assert answer.status_code == 200, answer.text
    vectors = [entry["embedding"] for entry in answer.json()["data"]]
    assert len(vectors) == 2048
    assert vectors[2047] == pytest.approx(vectors[1], abs=1e-4) and vectors[1] != pytest.approx(vectors[0], abs=1e-4)
    assert [entry["index"] for entry in answer.json()["data"]] == list(range(2048))


def test_other_dimensions_are_refused(client):
    assert embed(client, input="one", dimensions=7).status_code == 400
    assert embed(client, input="").status_code == 400


def test_offsets_of_half_characters_are_the_same_whole_and_streamed(client):
    wish = {"model": "tiny", "prompt": "aé", "max_tokens": 30, "temperature": 1, "seed": 0, "logprobs": 1, "echo": True}
    whole = client.post("/v1/completions", json=wish).json()["choices"][0]
    events = events_of(client.post("/v1/completions", json={**wish, "stream": True}))
    told = [event["choices"][0]["logprobs"]["text_offset"] for event in events]
    assert any(token.startswith("bytes:") for token in whole["logprobs"]["tokens"])
    assert [at for offsets in told for at in offsets] == whole["logprobs"]["text_offset"]
    assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
