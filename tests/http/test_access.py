"""Who may come in: hosts, origins, keys; and when a server has enough to do."""

import pytest
from fakes import random_adapter
from starlette.testclient import TestClient

from kameleon.errors import SettingError
from kameleon.http import KeyRing, create_app, open_socket
from kameleon.serving import Limits
from kameleon.settings import HttpSettings

ALL, SOME = "a-key-for-everything", "a-key-for-some-models"
ODD = {b"authorization": b"Bearer \xff\xfe"}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{ALL}\n{SOME} law, tiny  # a guest\n")
    return KeyRing.read(path)


@pytest.fixture
def guarded(service, keys):
    with TestClient(create_app(service, keys=keys), base_url="http://models.example") as opened:
        yield opened


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def say(client, model, headers=None):
    return client.post("/v1/completions", json={"model": model, "prompt": "one", "max_tokens": 1}, headers=headers)


def test_a_key_is_demanded_and_health_is_not_a_secret(guarded):
    for headers in ({}, bearer("wrong"), {"Authorization": ALL}, bearer(ALL[:-1]), ODD):
        response = say(guarded, "tiny", headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert say(guarded, "medicine", bearer(ALL)).status_code == 200
    assert guarded.get("/health").status_code == guarded.get("/ready").status_code == 200
    assert guarded.head("/health").status_code == guarded.head("/ready").status_code == 200  # as watchers ask
    for path in ("/", "/metrics", "/v1/models", "/v1/adapters", "/openapi.json", "/nowhere"):
        assert guarded.get(path).status_code == 401


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "an API key is needed"),
        ({"x-api-key": ALL}, "in the header x-api-key"),
        ({"api-key": ALL}, "in the header api-key"),
        ({"Authorization": ALL}, "lacks the word Bearer"),
        (bearer("wrong"), "does not know the API key"),
    ],
)
def test_a_key_that_came_another_way_is_told_so_and_how_to_send_it(guarded, headers, words):
    message = say(guarded, "tiny", headers).json()["error"]["message"]
    assert words in message
    assert "wrong" in headers.get("Authorization", "") or message.endswith("send the header Authorization: Bearer KEY")


def test_a_limited_key_sees_and_uses_only_its_models(guarded):
    assert say(guarded, "law", bearer(SOME)).status_code == 200
    assert say(guarded, "tiny", bearer(SOME)).status_code == 200
    refused = say(guarded, "medicine", bearer(SOME))
    assert refused.status_code == 404
    assert "did you mean 'medicine'" not in refused.json()["error"]["message"]
    assert say(guarded, "tiny:medicine", bearer(SOME)).status_code == 404
    listed = guarded.get("/v1/models", headers=bearer(SOME)).json()["data"]
    assert [model["id"] for model in listed] == ["tiny", "law"]
    assert guarded.get("/v1/adapters", headers=bearer(SOME)).status_code == 403
    assert guarded.post("/v1/adapters/law/load", headers=bearer(SOME)).status_code == 403


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{ALL}\n{ALL} law\n", "clé-clé-clé-clé-clé\n"])
def test_a_key_file_that_protects_nothing_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match="keys"):
        KeyRing.read(tmp_path / "keys")
    with pytest.raises(SettingError):
        KeyRing.read(tmp_path / "none")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_host_that_others_reach_needs_keys(host):
    with pytest.raises(SettingError, match="api-key-file"):
        open_socket(HttpSettings(host=host, port=0))


def test_a_port_that_is_taken_is_named():
    with open_socket(HttpSettings(port=0)) as first, pytest.raises(SettingError, match="choose another --port"):
        open_socket(HttpSettings(port=first.getsockname()[1]))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "[::2]", "", "127.0.0.1.evil.example"])
def test_without_keys_another_host_name_is_refused(client, host):
    response = client.get("/v1/models", headers={"host": host})
    assert response.status_code == 403
    assert client.get("/v1/models", headers={"host": "localhost:8000"}).status_code == 200
    assert client.get("/v1/models", headers={"host": "[::1]:8000"}).status_code == 200


def test_pages_of_other_origins_are_refused_unless_allowed(client, service):
    page = {"origin": "https://app.example"}
    for refused in (page, {"origin": "null"}):
        response = say(client, "tiny", refused)
        assert response.status_code == 403
        assert f"--cors-origins {refused['origin']}" in response.json()["error"]["message"]
    assert say(client, "tiny", {"origin": "http://127.0.0.1"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/v1/models").headers
    settings = HttpSettings(cors_origins=("https://app.example",))
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1") as open_to_it:
        response = say(open_to_it, "tiny", page)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        asked = {**page, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        assert open_to_it.options("/v1/completions", headers=asked).status_code == 200
        refused = open_to_it.options("/v1/completions", headers={**asked, "origin": "https://other.example"})
        assert refused.status_code == 403
        assert "--cors-origins https://other.example" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("origins", "told"), [(("*",), "*"), (("https://app.example",), "https://app.example")])
def test_a_page_of_the_internet_may_ask_for_this_machine_if_its_origin_is_allowed(service, origins, told):
    page = {"origin": "https://app.example"}
    with TestClient(create_app(service, HttpSettings(cors_origins=origins)), base_url="http://127.0.0.1") as client:
        asked = {
            **page,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
            "access-control-request-private-network": "true",
        }
        allowed = client.options("/v1/chat/completions", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-private-network"] == "true"
        assert allowed.headers["access-control-allow-origin"] == told
        assert say(client, "tiny", page).headers["access-control-allow-origin"] == told
        assert client.get("/v1/models", headers={**page, "host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["https://app.example/", "https://app.example/page", "app.example", "**", ""])
def test_what_no_browser_sends_as_an_origin_is_refused_at_the_start(origin):
    with pytest.raises(SettingError, match=r"https://example\.org, with no path"):
        HttpSettings(cors_origins=(origin,))


def test_origins_of_desktop_applications_and_extensions_can_be_allowed():
    HttpSettings(cors_origins=("app://obsidian.md", "tauri://localhost", "chrome-extension://abc", "null"))


def test_a_full_queue_says_when_to_come_back(make_service, shelf):
    service = make_service(Limits(kv_cache_bytes=4 << 20, max_batch=1, max_queue=2))
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        wish = {"model": "tiny", "prompt": "one", "max_tokens": 200, "n": 8, "ignore_eos": True}
        response = client.post("/v1/completions", json=wish)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert client.post("/v1/completions", json={**wish, "n": 1, "max_tokens": 2}).status_code == 200


def test_figures_are_told_by_adapter(client):
    say(client, "law")
    say(client, "nobody")
    text = client.get("/metrics").text
    assert 'kameleon_requests_total{adapter="law"} 1.0' in text
    assert 'kameleon_completion_tokens_total{adapter="law"} 1.0' in text
    assert 'kameleon_first_token_seconds_count{adapter="law"} 1.0' in text
    assert 'kameleon_http_responses_total{route="/v1/completions",status="404"} 1.0' in text
    assert "kameleon_resident_adapters 1.0" in text
    assert "process_resident_memory_bytes" in text
    assert "nobody" not in text


def test_an_adapter_called_as_the_base_has_series_of_its_own(client, shelf, tiny):
    shelf.save(random_adapter(tiny.base, "tiny", 5))
    assert say(client, "tiny").json()["model"] == "tiny"
    assert say(client, "tiny:tiny").json()["model"] == "tiny:tiny"
    series = [line.rpartition(" ")[0] for line in client.get("/metrics").text.splitlines() if line[0] != "#"]
    assert len(set(series)) == len(series)
    assert 'kameleon_requests_total{adapter="tiny:tiny"}' in series
