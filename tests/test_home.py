"""Where things are kept, and files that are replaced whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from kameleon import home


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KAMELEON_HOME", str(tmp_path / "mine"))
    assert home.home() == tmp_path / "mine"
    folders = [home.bases_dir(), home.adapters_dir(), home.runs_dir(), home.cache_dir()]
    assert {folder.parent for folder in folders} == {tmp_path / "mine"}
    assert len(set(folders)) == 4


@pytest.mark.parametrize("value", [None, ""])
def test_home_has_a_default_under_the_users_own_folder(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("KAMELEON_HOME")
    else:
        monkeypatch.setenv("KAMELEON_HOME", value)
    assert home.home() == Path.home() / ".local" / "share" / "kameleon"


def test_a_text_is_read_without_windows_byte_order_mark_and_only_if_it_is_small(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfb\xc3\xa4r\r\n")
    assert home.read_text(tmp_path / "text") == "bär\r\n"
    with pytest.raises(ValueError, match="it has 9 bytes; at most 8 are read"):
        home.read_text(tmp_path / "text", most_bytes=8)


def test_atomic_write_makes_the_folder_and_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    with home.atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_leaves_the_old_file_when_the_block_raises(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), home.atomic_write(path) as file:
        file.write(b"half of the n")
        file.flush()
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_replaces_only_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with home.atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_leaves_nothing_when_the_disk_fails_at_the_end(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(home.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), home.atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_cannot_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), home.atomic_write(tmp_path / "folder") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["folder"]
