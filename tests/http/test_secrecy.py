"""What a key learns of other keys, and of models that it may not use: nothing."""

import logging
from dataclasses import replace

import pytest
from fakes import random_adapter
from starlette.testclient import TestClient

from kameleon.adapters import Card
from kameleon.http import KeyRing, create_app
from kameleon.serving import HotAdapters, Limits

ONE, OTHER, LIMITED = "the-key-of-one-client", "the-key-of-another-one", "the-key-of-a-guest"
OURS = ("law", "broken", "stranger", "pointless", "gone")  # what a guest may use; all but the first cannot be used
THEIRS = ("q7secret", "z8secret", "x9secret")
FORM = {"content-type": "multipart/form-data; boundary=b"}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{ONE}\n{OTHER}\n{LIMITED} {','.join(OURS)}\n")
    path.chmod(0o600)
    return KeyRing.read(path)


@pytest.mark.parametrize(("model", "is_shared"), [("tiny", False), ("law", False), ("law", True)])
def test_a_key_finds_in_the_cache_what_it_sent_itself_unless_prefixes_are_shared(
    make_service, shelf, keys, model, is_shared
):
    service = make_service(Limits(kv_cache_bytes=4 << 20, share_prefixes=is_shared))
    with TestClient(create_app(service, keys=keys), base_url="http://127.0.0.1") as client:

        def found(key, user):
            wish = {"model": model, "prompt": "a secret " * 9, "max_tokens": 1, "user": user}
            told = client.post("/v1/completions", json=wish, headers=bearer(key)).json()
            return told["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

        assert [found(ONE, "a"), found(ONE, "b")] == [False, True]  # a user is any name that a client writes
        assert found(OTHER, "a") == is_shared
        assert found(OTHER, "a")


@pytest.fixture
def guests(make_service, shelf, tiny, keys, monkeypatch):
    """A client of a server with secret adapters, and with adapters of its own that fail in every way."""
    for name in (*THEIRS, "broken", "pointless", "stranger"):
        shelf.save(random_adapter(tiny.base, name, 3))
    for name in ("broken", THEIRS[1]):
        (shelf.path(name) / "adapter_model.safetensors").write_bytes(b"nonsense")
    stranger = random_adapter(tiny.base, "stranger", 3)
    shelf.save(replace(stranger, card=Card(base_id="/home/q7secret", base_fingerprint="sha256:other")))
    (shelf.folder("pointless") / "current").write_text("0009\n")
    there = HotAdapters.has
    monkeypatch.setattr(HotAdapters, "has", lambda self, name: name == "gone" or there(self, name))  # just removed
    with TestClient(create_app(make_service(), keys=keys), base_url="http://models.example") as opened:
        wish = {"prompt": "one", "max_tokens": 1}
        for name in (THEIRS[0], "tiny"):
            told = opened.post("/v1/completions", json={**wish, "model": name, "user": "q7secret"}, headers=bearer(ONE))
            assert told.status_code == 200
        yield opened


def _requests(app, names):
    """Each route with each name in its path and in its body, in its own method and in a wrong one."""
    beside = {path: ["get"] for path in ("/", "/metrics", "/openapi.json", "/nowhere", "/v1/chat/completions/x")}
    for route, methods in {**beside, **app.openapi()["paths"]}.items():
        method = next(iter(methods)).upper()
        for name in names if "{" in route or method == "POST" else names[:1]:
            path = route.replace("{name}", name).replace("{model}", name)
            bodies = [{}]
            if method == "POST":
                chat = {"model": name, "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}
                text = {"model": name, "prompt": "one", "max_tokens": 1}
                sent = chat if "chat" in path else {"model": name, "input": "one"} if "emb" in path else text
                bodies = [{"json": sent}, {"json": {**sent, "stream": True}}, {"json": {"lora_name": name}}]
            elif method == "PUT":
                bodies = [{"content": b"x", "headers": FORM}]
            for body in bodies:
                yield method, path, body
        yield "DELETE", path, {}
        yield "OPTIONS", path, {}


def test_no_answer_to_a_limited_key_holds_another_models_name_or_a_path(guests, shelf):
    answered = 0
    for method, path, body in _requests(guests.app, [*OURS, "nonsense"]):
        headers = {**bearer(LIMITED), **body.pop("headers", {})}
        response = guests.request(method, path, headers=headers, **body)
        told = f"{response.headers} {response.text}"
        for secret in (*THEIRS, "medicine", "tiny", "/home", str(shelf.root), str(shelf.root.parent)):
            assert secret not in told, (method, path, told)
        assert response.status_code < 500, (method, path, told)
        answered += response.status_code == 200
    assert answered > 10


def test_a_model_that_a_key_may_not_use_is_as_one_that_does_not_exist(guests):
    def refusal(path, name):
        said = {"completions": {"prompt": "one"}, "embeddings": {"input": "one"}}
        said["chat/completions"] = {"messages": [{"role": "user", "content": "one"}]}
        response = guests.post(f"/v1/{path}", json={"model": name, **said[path]}, headers=bearer(LIMITED))
        error = response.json()["error"]
        return response.status_code, error | {"message": error["message"].replace(name, "")}

    for path in ("completions", "embeddings", "chat/completions"):
        assert refusal(path, "q7secret") == refusal(path, "q6secret")
        assert refusal(path, "z8secret") == refusal(path, "z7secret")  # a broken one


def test_a_limited_key_sees_the_figures_of_its_own_requests_and_an_admin_those_of_all(guests):
    for key in (LIMITED, ONE, ONE):
        wish = {"model": "law", "prompt": "one", "max_tokens": 1}
        assert guests.post("/v1/completions", json=wish, headers=bearer(key)).status_code == 200
    own = guests.get("/metrics", headers=bearer(LIMITED)).text
    assert 'kameleon_requests_total{adapter="law"} 1.0' in own
    assert 'kameleon_first_token_seconds_count{adapter="law"} 1.0' in own
    assert {line.partition("{")[0] for line in own.splitlines() if line[0] != "#" and "adapter=" not in line} == set()
    whole = guests.get("/metrics", headers=bearer(OTHER)).text
    assert 'kameleon_requests_total{adapter="law"} 3.0' in whole
    assert 'kameleon_requests_total{adapter="q7secret"} 1.0' in whole
    assert "process_resident_memory_bytes" in whole


def test_what_a_limited_key_is_not_told_stands_in_the_log_and_is_told_an_admin(guests, caplog):
    caplog.set_level(logging.INFO, "kameleon.http.request_log")
    for name, status in {"broken": 422, "pointless": 422, "stranger": 422, "gone": 404}.items():
        caplog.clear()
        wish = {"model": name, "prompt": "one", "max_tokens": 1}
        shown, whole = (guests.post("/v1/completions", json=wish, headers=bearer(key)) for key in (LIMITED, ONE))
        assert shown.status_code == whole.status_code == status
        assert shown.json()["error"]["code"] == whole.json()["error"]["code"]
        reason = whole.json()["error"]["message"]
        assert shown.json()["error"]["message"] != reason
        first, second = (record.getMessage() for record in caplog.records)
        assert first.endswith(f"({reason})") and not second.endswith(")")
