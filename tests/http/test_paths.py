"""Paths: those that exist in other spellings, those that do not, and the index at /."""

from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest


def test_an_unknown_path_names_those_that_exist(client):
    response = client.get("/v2")
    assert response.status_code == 404
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "unknown_path"
    for path in (*client.get("/openapi.json").json()["paths"], "/metrics", "/openapi.json"):
        assert path in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/models", "did you mean /v1/models?"),
        ("POST", "/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/v1/chat/completions/chat/completions", "did you mean /v1/chat/completions?"),
        ("POST", "/openai/deployments/law/completions", "did you mean /v1/completions?"),
        ("POST", "/api/embeddings", "did you mean /v1/embeddings?"),
        ("GET", "/api/tags", "Ollama's interface is not supported"),
        ("POST", "/api/chat", "Ollama's interface is not supported"),
        ("POST", "/v1/responses", "OpenAI's responses API is not supported"),
        ("GET", "/v1/responses/resp_1", "OpenAI's responses API is not supported"),
        ("POST", "/v1/audio/speech", "OpenAI's audio API is not supported"),
        ("POST", "/v1/fine_tuning/jobs", "OpenAI's fine tuning API is not supported"),
        ("POST", "/v1/messages", "Anthropic's interface is not supported"),
        ("GET", "/v1", "'/v1'. A client's base URL is http://127.0.0.1/v1"),
    ],
)
def test_a_path_of_another_interface_is_told_what_is_here(client, method, path, words):
    response = client.request(method, path)
    assert response.status_code == 404
    assert words in response.json()["error"]["message"]
    assert "A client's base URL is http://127.0.0.1/v1." in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/chat/completions", "POST"), ("OPTIONS", "/v1/models", "GET"), ("DELETE", "/v1/models/law", "GET")],
)
def test_a_wrong_method_is_told_the_right_one(client, method, path, allowed):
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert response.json()["error"]["message"] == f"{path} takes {allowed}, not {method}"


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "http://127.0.0.1//v1/models"])
def test_slashes_too_many_do_not_count(client, path):
    assert client.get(path).json() == client.get("/v1/models").json()


def test_a_request_with_a_body_is_answered_at_once_behind_a_trailing_slash(client):
    wish = {"model": "tiny", "prompt": "one", "max_tokens": 1}
    assert client.post("/v1/completions/", json=wish, follow_redirects=False).status_code == 200
    assert 'route="/v1/completions",status="200"' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/models/law"])
def test_head_is_get_without_the_body(client, path):
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.content == b""


def test_head_is_answered_on_a_real_connection_too(address):
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=10)) as connection:
        for _ in range(2):  # the connection goes on
            connection.request("HEAD", "/v1/models")
            response = connection.getresponse()
            assert response.status == 200
            assert response.read() == b""


def test_the_index_is_text_for_programs_and_a_page_without_scripts_for_browsers(client):
    text = client.get("/")
    assert text.headers["content-type"].startswith("text/plain")
    page = client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert '<a href="/v1/models">' in page.text
    for path in (*client.get("/openapi.json").json()["paths"], "/metrics", "/openapi.json", "http://127.0.0.1/v1"):
        assert path in text.text
        assert path in page.text
    assert "<b>" not in client.get("/", headers={"host": "localhost", "accept": "text/html"}).text
