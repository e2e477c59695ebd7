"""Adapters over HTTP: listed, loaded, pinned, uploaded, unloaded; and no path reaches the disk."""

import difflib
import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fakes import random_adapter
from starlette.testclient import TestClient

from kameleon.adapters import Card
from kameleon.adapters.formats import write_adapter
from kameleon.http import create_app
from kameleon.settings import HttpSettings


def files_of(folder, *names):
    names = names or ("adapter_config.json", "adapter_model.safetensors", "kameleon.json")
    return [("files", (name, (folder / name).read_bytes())) for name in names]


@pytest.fixture
def exported(tiny, tmp_path):
    """A folder in PEFT's format that is not on the shelf."""
    write_adapter(random_adapter(tiny.base, "new", 7), tmp_path / "new")
    return tmp_path / "new"


def say(client, model):
    wish = {"model": model, "prompt": "one", "max_tokens": 8, "temperature": 0}
    return client.post("/v1/completions", json=wish)


def test_models_are_the_base_and_the_shelf(client):
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny", "law", "medicine"]
    assert client.get("/v1/models/law").json()["parent"] == "tiny"
    assert client.get("/v1/models/tiny").json()["parent"] is None
    assert client.get("/v1/models/tiny:law").json()["id"] == "law"
    assert client.get("/v1/models/lav").json()["error"]["message"].startswith("no model 'lav': did you mean 'law'?")


def test_an_adapter_is_loaded_pinned_and_unloaded(client):
    def state():
        return {one["name"]: one for one in client.get("/v1/adapters").json()["data"]}["law"]

    assert not state()["resident"]
    assert client.post("/v1/adapters/law/load").json()["resident"]
    assert client.post("/v1/adapters/law/pin").json()["pinned"]
    assert not client.post("/v1/adapters/law/unpin").json()["pinned"]
    assert not client.post("/v1/adapters/law/unload").json()["resident"]
    assert not state()["resident"]
    assert client.post("/v1/adapters/law/unload").status_code == 404
    assert client.post("/v1/adapters/lew/load").status_code == 404


def test_what_is_told_of_one_adapter_takes_no_walk_through_the_shelf(client, shelf, monkeypatch):
    whole = {one["name"]: one for one in client.get("/v1/adapters").json()["data"]}["law"]
    monkeypatch.setattr(type(shelf), "entries", lambda self: pytest.fail("a shelf of a thousand takes a while"))
    loaded = client.post("/v1/adapters/law/load").json()
    assert loaded["resident"] and loaded["version"] == whole["version"]
    assert client.post("/v1/adapters/law/unload").json() == whole


def test_an_upload_is_proven_kept_and_served_at_once(client, exported, shelf):
    response = client.put("/v1/adapters/new", files=files_of(exported))
    assert response.status_code == 201
    assert response.json()["proof"]["live"]
    assert response.json()["resident"]
    assert shelf.has("new")
    assert say(client, "new").status_code == 200
    assert say(client, "new").json()["choices"] != say(client, "tiny").json()["choices"]


def test_an_upload_replaces_only_when_it_says_so_and_new_requests_get_it(client, exported, shelf):
    before = say(client, "law").json()["choices"]
    assert client.put("/v1/adapters/law", files=files_of(exported)).status_code == 409
    assert say(client, "law").json()["choices"] == before
    response = client.put("/v1/adapters/law", files=files_of(exported), data={"overwrite": "true"})
    assert response.json()["version"] == 2
    assert say(client, "law").json()["choices"] != before


def test_an_upload_that_is_broken_or_of_another_base_changes_nothing(client, exported, shelf, tiny, tmp_path):
    before = shelf.names()
    (name, (_, tensors)) = files_of(exported, "adapter_model.safetensors")[0]
    cut = [*files_of(exported, "adapter_config.json"), (name, ("adapter_model.safetensors", tensors[:-9]))]
    assert client.put("/v1/adapters/bad", files=cut).status_code == 422
    write_adapter(random_adapter(tiny.base, "other", 3), tmp_path / "other")
    stranger = random_adapter(tiny.base, "stranger", 3)
    write_adapter(
        type(stranger)("stranger", stranger.modules, Card(base_fingerprint="sha256:other")), tmp_path / "stranger"
    )
    response = client.put("/v1/adapters/stranger", files=files_of(tmp_path / "stranger"))
    assert response.status_code == 422
    assert "was trained on" in response.json()["error"]["message"]
    assert shelf.names() == before


@pytest.mark.parametrize("name", ["adapter_model.bin", "../../etc/passwd", "x/adapter_config.json", ""])
def test_only_the_three_files_are_taken(client, exported, name):
    sent = [*files_of(exported), ("files", (name, b"x"))]
    assert client.put("/v1/adapters/bad", files=sent).status_code == 400


@pytest.mark.parametrize("name", [".hidden", "a b", "CON", "x" * 80, "..", "%2e%2e%2fetc"])
def test_a_name_that_is_no_plain_name_is_refused(client, exported, shelf, name):
    before = shelf.names()
    assert client.put(f"/v1/adapters/{name}", files=files_of(exported)).status_code in (400, 404, 405)
    assert shelf.names() == before


def test_an_upload_has_a_limit_of_its_own(service, exported):
    settings = HttpSettings(max_request_bytes=2000, max_upload_bytes=10_000)
    with TestClient(create_app(service, settings), base_url="http://127.0.0.1") as small:
        response = small.put("/v1/adapters/new", files=files_of(exported))
        assert response.status_code == 413
        body = {"model": "tiny", "prompt": "x" * 3000}
        assert small.post("/v1/completions", json=body).status_code == 413

        def parts():
            yield b'{"model": "tiny", "prompt": "'
            yield b"x" * 3000
            yield b'"}'

        chunked = small.post("/v1/completions", content=parts(), headers={"content-type": "application/json"})
        assert chunked.status_code == 413
        assert "larger than 2,000 bytes" in chunked.json()["error"]["message"]


def test_vllms_paths_load_and_unload_but_take_no_paths(client, shelf, tmp_path):
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert client.post(load, json={"lora_name": "law", "lora_path": "law"}).status_code == 200
    assert client.post(load, json={"lora_name": "law", "lora_path": str(shelf.folder("law"))}).status_code == 200
    for path in (str(tmp_path), "/etc", "../law"):
        response = client.post(load, json={"lora_name": "law", "lora_path": path})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "lora_path"
    assert client.post(unload, json={"lora_name": "law"}).text == "Success: LoRA adapter 'law' removed successfully."
    assert client.post(unload, json={"lora_name": "law"}).status_code == 404


def test_an_adapter_deleted_on_disk_is_a_404_from_then_on(client, shelf):
    assert say(client, "law").status_code == 200
    shelf.remove("law")
    assert say(client, "law").status_code == 404


def test_a_request_for_a_broken_adapter_on_the_shelf_gets_an_error(client, shelf):
    (shelf.path("law") / "adapter_model.safetensors").write_bytes(b"nonsense")
    response = say(client, "law")
    assert response.status_code == 422
    assert "damaged" in response.json()["error"]["message"]
    assert say(client, "medicine").status_code == 200


def test_a_name_of_megabytes_is_refused_without_being_compared(client, monkeypatch):
    def compare(self, sequence):
        assert len(sequence) < 1000
        return original(self, sequence)

    original = difflib.SequenceMatcher.set_seq2
    monkeypatch.setattr(difflib.SequenceMatcher, "set_seq2", compare)
    response = say(client, "law" * 500_000)
    assert response.status_code == 404
    assert "did you mean 'law'?" in response.json()["error"]["message"]
    assert client.post("/v1/load_lora_adapter", json={"lora_name": "law" * 500_000}).status_code == 404


def test_loads_that_wait_for_room_leave_other_requests_their_threads(service, listen, monkeypatch):
    may_go_on, waiting = threading.Event(), threading.Semaphore(0)

    def load(name):
        waiting.release()
        assert may_go_on.wait(20)

    monkeypatch.setattr(service.adapters, "load", load)
    address = listen(create_app(service))

    def post(path, body=None):
        wish = urllib.request.Request(
            address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        return urllib.request.urlopen(wish, timeout=10).status

    with ThreadPoolExecutor(50) as clients:
        loads = [clients.submit(post, "/v1/adapters/law/load") for _ in range(45)]
        try:
            for _ in range(40):
                assert waiting.acquire(timeout=10)
            assert post("/v1/completions", {"model": "medicine", "prompt": "one", "max_tokens": 1}) == 200
        finally:
            may_go_on.set()
        assert [one.result() for one in loads] == [200] * 45


def test_an_uploaded_card_brings_its_system_prompt(client, tiny, tmp_path):
    adapter = random_adapter(tiny.base, "new", 7)
    write_adapter(replace(adapter, card=replace(adapter.card, system_prompt="You are a pirate.")), tmp_path / "new")
    told = client.put("/v1/adapters/new", files=files_of(tmp_path / "new"))
    assert (told.status_code, told.json()["system_prompt"]) == (201, "You are a pirate.")
    listed = {one["name"]: one["system_prompt"] for one in client.get("/v1/adapters").json()["data"]}
    assert listed == {"law": None, "medicine": None, "new": "You are a pirate."}
    hello = [{"role": "user", "content": "Hello"}]
    answer = client.post("/v1/chat/completions", json={"model": "new", "messages": hello, "max_tokens": 1})
    begun = [{"role": "system", "content": "You are a pirate."}, *hello]
    assert answer.json()["usage"]["prompt_tokens"] == len(tiny.encode_prompt(begun))


@pytest.mark.parametrize("change", [{"format": 4}, {"system_prompt": 5}, {"system_prompt": "\ud800"}])
def test_an_upload_whose_card_cannot_be_read_is_refused(change, client, exported):
    card = exported / "kameleon.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    assert client.put("/v1/adapters/new", files=files_of(exported)).status_code == 422
