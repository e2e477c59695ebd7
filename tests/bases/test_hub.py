"""A base from a hub, and the messages if the hub does not deliver it."""

import os
import socket
import subprocess
import sys

import huggingface_hub.constants
import pytest
from hub import FILES, NOBODY, REVISION, UNWANTED, snapshot
from huggingface_hub.errors import HTTPError

from kameleon.bases import fetch
from kameleon.bases.fetch import locate
from kameleon.errors import FetchError


def test_a_hub_that_nobody_answers_at_is_named_soon(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", NOBODY + "/")
    with pytest.raises(
        FetchError, match=rf"cannot fetch 'owner/name': the hub at {NOBODY} cannot be reached \(.*refus"
    ):
        locate("owner/name")


@pytest.mark.parametrize("endpoint", ["nonsense", "htp://localhost", "http://127.0.0.1:port", "http://"])
def test_an_endpoint_that_is_no_address_is_named(monkeypatch, endpoint):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(FetchError, match="cannot be reached"):
        locate("owner/name")


def test_a_hub_that_is_connected_to_but_says_nothing_is_given_up_soon(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(fetch, "_HUB_PROBE_S", 0.2)
        with pytest.raises(FetchError, match=r"cannot be reached \(timed out\)"):
            locate("owner/name")


def test_a_login_page_in_between_is_not_taken_for_a_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}/hotel")
    with pytest.raises(FetchError, match="is a login page in between"):
        locate("owner/name")


@pytest.fixture
def answering(hub, monkeypatch):
    """A hub that answers, while what its library does is up to the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")

    def doing(download):
        real = fetch.snapshot_download
        monkeypatch.setattr(
            fetch, "snapshot_download", lambda *a, **k: real(*a, **k) if k.get("local_files_only") else download()
        )

    return doing


def test_a_download_that_breaks_off_is_a_fetch_error(answering):
    def broken():
        raise HTTPError("peer closed connection")

    answering(broken)
    with pytest.raises(FetchError, match="did not deliver owner/name: peer closed connection"):
        locate("owner/name")


def test_a_part_of_a_base_is_not_taken_when_the_hub_fails_half_way(answering, hub_cache):
    """Its library then returns what is in the cache, whole or not."""
    kept = snapshot(hub_cache, "owner/name", {"config.json": b"{}"})
    answering(lambda: str(kept))
    with pytest.raises(FetchError, match="came without all its safetensors files"):
        locate("owner/name")


REFS = ["owner/name", "owner/name", "absent/name", "gated/name", "owner/bare", "broken/name"]
PINNED = [f"owner/name@{REVISION}", "owner/name@v9"]


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    """(ref, path or None, source or error) of everything that is asked of the hub, in this order."""
    home = tmp_path_factory.mktemp("hub")
    answers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("HF_HUB_OFFLINE", "0")
        endpoint = f"http://127.0.0.1:{hub.server_port}"
        patch.setenv("HF_ENDPOINT", endpoint)
        patch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
        for ref in (*REFS, *PINNED):
            try:
                files = locate(ref)
                answers.append((ref, str(files.path), files.source))
            except FetchError as error:
                answers.append((ref, None, str(error)))
    return answers


def test_a_hub_delivers_the_wanted_files_and_no_pickle_or_second_copy(answers, hub):
    _, path, source = answers[0]
    names = sorted(os.listdir(path))
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    for name in names:
        with open(os.path.join(path, name), "rb") as file:
            assert file.read() == FILES[name]
    assert f"http://127.0.0.1:{hub.server_port}" in source
    assert f"owner/name, revision {REVISION}" in source
    assert not [asked for asked in hub.asked if asked.endswith(tuple(UNWANTED))]


def test_the_second_time_the_hub_is_not_asked(answers, hub):
    (_, first, _), (_, second, source) = answers[:2]
    assert second == first
    assert "cache" in source
    assert hub.asked.count(f"GET /owner/name/resolve/{REVISION}/model.safetensors") == 1


def test_a_base_of_one_commit_is_that_commits(answers):
    path, source = answers[6][1:]
    assert path is not None and path.endswith(REVISION)
    assert source.endswith(f"owner/name, revision {REVISION}")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (2, "the hub has no absent/name, or it is private"),
        (3, "gated/name is gated: accept its terms on the hub, then log in with `hf auth login`"),
        (4, "owner/bare has no config.json"),
        (5, "did not deliver broken/name"),
        (7, "the hub's owner/name has no revision v9: give a branch, a tag or a whole commit"),
    ],
)
def test_a_hubs_refusal_is_told_in_our_words(answers, number, said):
    ref, path, message = answers[number]
    assert path is None
    assert f"cannot fetch {ref!r}" in message
    assert said in message


ASK = """
import sys
from kameleon.bases.fetch import locate
files = locate(sys.argv[1])
print(files.path)
print(files.source)
"""


@pytest.mark.slow
def test_a_hub_is_found_by_the_environment_alone(hub, tmp_path):
    """In a process of its own: the hub's library reads HF_ENDPOINT and HF_HOME when it is imported."""
    unwanted = ("HF_", "HTTP", "http", "ALL_PROXY", "all_proxy")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", ASK, "owner/name"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    path, source = done.stdout.splitlines()
    assert path.startswith(str(tmp_path / "hf"))
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert f"http://127.0.0.1:{hub.server_port}" in source
