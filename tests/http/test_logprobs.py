"""Log-probabilities tell where tokens begin in a text, and their bytes, though tokens may split a character."""

import json

import pytest
from events import events_of
from hypothesis import given
from hypothesis import strategies as st

from kameleon.http.logprobs import Offsets

TEXT = "Zażółć 🦎👩‍🚀!"
FORM = {"type": "regex", "regex": TEXT}


@given(text=st.text(st.sampled_from("aż🦎日\u0301")), data=st.data())
def test_an_offset_counts_the_characters_that_ended_before_the_token(text, data):
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    offsets, begins = Offsets(5), [0, *cuts]
    told = [offsets.take(whole[a:b]) for a, b in zip(begins, [*cuts, len(whole)], strict=True)]
    ended = [len(whole[:begin].decode(errors="ignore")) for begin in begins]
    assert told == [5 + count for count in ended]


@given(pieces=st.lists(st.binary(max_size=3), max_size=8))
def test_an_offset_counts_one_replacement_character_for_broken_bytes(pieces):
    offsets = Offsets(0)
    for piece in pieces:
        offsets.take(piece)
    whole = b"".join(pieces) + b"."
    assert offsets.take(b".") == len(whole.decode(errors="replace")) - 1


def chat(client, **fields):
    wish = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "response_format": FORM, **fields}
    return client.post("/v1/chat/completions", json={"max_tokens": 90, "logprobs": True, "top_logprobs": 3, **wish})


def joined(entries):
    return bytes(byte for entry in entries for byte in entry["bytes"]).decode()


def test_the_bytes_of_a_chat_join_to_its_text_whole_and_streamed(client):
    choice = chat(client).json()["choices"][0]
    assert choice["message"]["content"] == joined(choice["logprobs"]["content"]) == TEXT
    alternatives = [other for entry in choice["logprobs"]["content"] for other in entry["top_logprobs"]]
    assert all(isinstance(other["bytes"], list) for other in alternatives)
    events = [event["choices"][0] for event in events_of(chat(client, stream=True))]
    told = [entry for one in events if one["logprobs"] for entry in one["logprobs"]["content"]]
    assert joined(told) == "".join(one["delta"].get("content", "") for one in events) == TEXT


@pytest.mark.parametrize("prompt", ["żółw 🐢", [0xC5, 0xBC]], ids=["text", "tokens"])
def test_the_offsets_of_completions_are_places_in_their_text(client, prompt):
    wish = {"model": "tiny", "prompt": prompt, "max_tokens": 90, "logprobs": 2, "echo": True, "response_format": FORM}
    choice = client.post("/v1/completions", json=wish).json()["choices"][0]
    told, text = choice["logprobs"], choice["text"]
    assert text.endswith(TEXT)
    for token, at in zip(told["tokens"], told["text_offset"], strict=True):
        if token.startswith("bytes:"):
            split = bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
            assert split in text[at].encode()
        else:
            assert text[at : at + len(token)] == token
    streamed = [
        event["choices"][0] for event in events_of(client.post("/v1/completions", json={**wish, "stream": True}))
    ]
    assert json.dumps([at for one in streamed for at in one["logprobs"]["text_offset"]]) == json.dumps(
        told["text_offset"]
    )
