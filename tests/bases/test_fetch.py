"""A base's files on this machine: folders, files, the hub's cache and the catalogue."""

import pytest
from hub import FILES, snapshot

from kameleon.bases.catalogue import CATALOGUE
from kameleon.bases.fetch import list_bases, locate
from kameleon.errors import FetchError
from kameleon.home import bases_dir


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


@pytest.mark.parametrize("ref", ["owner/na me", "owner/", "/name", "owner/name--x", "own:er/name", "-/-"])
def test_what_cannot_be_a_hub_id_is_refused(ref):
    with pytest.raises(FetchError):
        locate(ref)


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
