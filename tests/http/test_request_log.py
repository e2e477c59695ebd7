"""The log of the server: a line for each request when it has ended, with figures; nothing of what was said, no keys."""

import http.client
import json
import logging
import re
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from conftest import LIMITS
from starlette.testclient import TestClient
from waiting import wait_until

from kameleon.http import KeyRing, create_app
from kameleon.http.request_log import word

HI = [{"role": "user", "content": "Hello there"}]
LOGGER = "kameleon.http.request_log"


@pytest.fixture
def lines(caplog):
    """The lines so far, without what each took."""
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [re.sub(r" ms=\d+", "", r.getMessage()) for r in caplog.records if r.name == LOGGER]


def chat(client, **fields):
    wish = {"model": "law", "messages": HI, "max_tokens": 5, "temperature": 0, "ignore_eos": True, **fields}
    return client.post("/v1/chat/completions", json=wish)


def test_a_request_is_one_line_with_its_figures(client, caplog, lines):
    usage = chat(client).json()["usage"]
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    figures = f"tokens={usage['prompt_tokens']}+5"
    assert re.fullmatch(
        rf"POST /v1/chat/completions 200 model=law {re.escape(figures)} ms=\d+ finish=length", record.getMessage()
    )


@pytest.mark.parametrize("stream", [False, True])
def test_counts_are_those_of_usage_for_several_answers_and_prompts_too(client, lines, stream):
    wish = {"model": "tiny", "prompt": ["one", "one"], "n": 2, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    client.post("/v1/completions", json={**wish, "stream": stream})
    chat(client, n=2, stop=["\n"], stream=stream)
    usage = chat(client, n=2, stop=["\n"]).json()["usage"]
    assert lines()[0] == "POST /v1/completions 200 model=tiny tokens=6+16 finish=length"
    assert f"tokens={usage['prompt_tokens']}+{usage['completion_tokens']} " in lines()[1]
    client.post("/v1/embeddings", json={"model": "law", "input": ["one", "two"]})
    assert lines()[-1].startswith("POST /v1/embeddings 200 model=law tokens=6+0")


def test_nothing_that_was_said_is_in_it(client, lines, caplog):
    said = chat(client, messages=[{"role": "user", "content": "my secret"}], user="anna").json()
    text = caplog.text
    assert len(lines()) == 1
    assert "secret" not in text
    assert "anna" not in text
    assert said["choices"][0]["message"]["content"] not in text


def test_refusals_are_in_it_too_with_their_reason(client, lines):
    chat(client, model="lawe")
    chat(client, tool_choice="required")
    client.post("/v1/chat/completions", json={"model": "law"})
    chat(client, messages=[{"role": "user", "content": "x" * 300}])
    client.post("/v1/chat/completions", content=b"{}")
    client.get("/nowhere?api_key=s3cret")
    client.get("/v1/models", headers={"host": "elsewhere.example"})
    assert lines() == [
        "POST /v1/chat/completions 404 model=lawe code=model_not_found param=model",
        "POST /v1/chat/completions 400 model=law code=invalid_value param=tool_choice",
        "POST /v1/chat/completions 400 model=law code=invalid_value param=messages",
        "POST /v1/chat/completions 400 model=law code=context_length_exceeded",
        "POST /v1/chat/completions 415 code=wrong_content_type",
        "GET /nowhere 404 code=unknown_path",
        "GET /v1/models 403 code=wrong_host",
    ]


def test_a_wrong_key_is_refused_in_the_log_without_the_key(service, lines, tmp_path, caplog):
    (path := tmp_path / "keys").write_text("a-key-that-is-long-enough-0123456789\n")
    client = TestClient(create_app(service, keys=KeyRing.read(path)), base_url="http://127.0.0.1")
    client.get("/v1/models", headers={"authorization": "Bearer another-key"})
    client.get("/v1/models", headers={"authorization": "Bearer a-key-that-is-long-enough-0123456789"})
    assert lines() == ["GET /v1/models 401 code=invalid_api_key", "GET /v1/models 200"]
    assert "another-key" not in caplog.text
    assert "long-enough" not in caplog.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_watchers_do_not_fill_it(client, lines, path):
    assert client.get(path).status_code == 200
    assert lines() == []


def test_a_client_that_leaves_is_told_with_what_it_had(listen, service, lines):
    """The stream's line comes when it ends, not when it begins."""
    connection = http.client.HTTPConnection(urlsplit(listen(create_app(service))).netloc, timeout=10)
    wish = {"model": "law", "messages": HI, "max_tokens": 200, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(wish), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    assert lines() == []
    response.close()
    connection.close()
    wait_until(lines)
    assert re.fullmatch(r"POST /v1/chat/completions 200 model=law tokens=\d+\+\d+ finish=cancelled", lines()[0])


def test_an_answer_that_fails_says_so(make_service, shelf, tiny, lines):
    client = TestClient(create_app(make_service(replace(LIMITS, max_request_s=1e-9))), base_url="http://127.0.0.1")
    assert chat(client).status_code == 429
    assert lines() == [
        f"POST /v1/chat/completions 429 model=law tokens={len(tiny.encode_prompt(HI))}+0 finish=error code=queue_full"
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("law", "law"),
        ("prawo-żółć", "prawo-żółć"),
        ("a b", r"a\x20b"),
        ("\x1b[31mred\r\n2026-01-01 GET /", r"\x1b[31mred\r\n2026-01-01\x20GET\x20/"),
        ("\x9b31m\u202eevil\u2028\ud800\0", r"\x9b31m\u202eevil\u2028\ud800\x00"),
        ("back\\slash", r"back\\slash"),
        ("x" * 5000, "x" * 80 + "…"),
        ("", ""),
    ],
)
def test_what_a_client_wrote_is_one_short_word_that_no_terminal_obeys(text, shown):
    assert word(text) == shown
    assert word(text).isprintable()


def test_names_and_paths_of_clients_are_shown_that_way(client, lines):
    chat(client, model="\x1b]0;owned\x07")
    client.get("/v1/models/%1b%5b2J")
    refusal = "code=model_not_found param=model"
    assert lines() == [
        rf"POST /v1/chat/completions 404 model=\x1b]0;owned\x07 {refusal}",
        rf"GET /v1/models/\x1b[2J 404 {refusal}",
    ]
    chat(client, **{"\x1b[2J": 1})
    assert lines()[-1].endswith(r"400 model=law code=invalid_value param=\x1b[2J")
