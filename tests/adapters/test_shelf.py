"""The shelf: versions, several processes at once, and a kill at any point of a write."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.errors import AdapterError, AdapterFileError, AdapterNotFoundError, SettingError


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def versions(tiny):
    """Three adapters of one name and other numbers."""
    return [random_adapter(tiny.base, "law", seed=seed) for seed in range(3)]


def test_saving_again_keeps_the_earlier_versions_and_rolling_back_finds_them(shelf, versions):
    for adapter in versions:
        shelf.save(adapter)
    assert [(e.version, e.current) for e in shelf.history("law")] == [(1, False), (2, False), (3, True)]
    assert shelf.load("law").fingerprint == versions[2].fingerprint
    assert shelf.load("law").name == "law"
    assert shelf.rollback("law") == 2
    assert shelf.load("law").fingerprint == versions[1].fingerprint
    assert shelf.rollback("law", 3) == 3
    assert shelf.rollback("law", 1) == 1
    shelf.save(versions[1])
    assert [(e.version, e.current) for e in shelf.history("law")][-1] == (4, True)
    with pytest.raises(AdapterNotFoundError, match="no version 9; it has 1, 2, 3, 4"):
        shelf.rollback("law", 9)
    shelf.rollback("law", 1)
    with pytest.raises(AdapterNotFoundError, match="no earlier version"):
        shelf.rollback("law")
    shelf.remove("law")
    assert not shelf.has("law")
    assert [path.name for path in shelf.root.iterdir()] in ([], [".lock"])


def test_a_taken_name_is_kept_unless_it_may_be_overwritten(shelf, versions):
    shelf.save(versions[0])
    with pytest.raises(SettingError, match="`overwrite=True`"):
        shelf.save(versions[1], overwrite=False)
    assert shelf.load("law").fingerprint == versions[0].fingerprint


@pytest.mark.parametrize("pointer", ["../../etc", "0009", "", "0001\n0001", "1", "\x00", "/root", "é"])
def test_a_pointer_to_anything_but_a_version_is_refused(shelf, versions, pointer):
    shelf.save(versions[0])
    (shelf.root / "law" / "current").write_text(pointer, encoding="utf-8")
    with pytest.raises(AdapterFileError):
        shelf.load("law")
    (entry,) = shelf.entries()
    assert "cannot be read" in str(entry.fault) or "rollback('law', version)`; it has 1" in str(entry.fault)
    assert entry.fault and entry == shelf.entry("law")
    assert shelf.rollback("law", 1) == 1
    assert shelf.load("law").fingerprint == versions[0].fingerprint


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "", ".", "..", ".hidden", "a" * 65, "a\x00", "con", "NUL.x", "a."]
)
def test_a_name_that_is_no_plain_folder_name_is_refused_everywhere(name, shelf, versions):
    for use in (shelf.load, shelf.remove, shelf.history, shelf.rollback, shelf.path, shelf.has, shelf.folder):
        with pytest.raises(AdapterError, match="cannot name an adapter"):
            use(name)
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        replace(versions[0], name=name)


def test_a_folder_with_a_name_that_no_adapter_has_is_listed_with_its_fault(shelf, versions):
    shelf.save(versions[0])
    (shelf.root / "my adapter").mkdir()
    (shelf.root / "my adapter" / "adapter_config.json").touch()
    law, other = shelf.entries()
    assert law.fault is None
    assert "'my adapter' cannot name an adapter" in str(other.fault)


def test_an_adapter_that_leaves_while_it_is_listed_is_a_fault_of_its_own(shelf, versions, monkeypatch):
    shelf.save(versions[0])
    shelf.save(replace(versions[1], name="medicine"))
    walk = Path.rglob

    def walk_behind_a_remover(folder, pattern):
        if folder.parent.name == "law":
            raise FileNotFoundError(f"No such file or directory: {folder}")
        return walk(folder, pattern)

    monkeypatch.setattr(Path, "rglob", walk_behind_a_remover)
    law, medicine = shelf.entries()
    assert "No such file" in str(law.fault)
    assert medicine.fault is None


def test_many_writers_at_once_lose_nothing(shelf, versions):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(shelf.save, versions * 8))
        list(pool.map(shelf.save, [replace(versions[0], name=f"a{i}") for i in range(8)]))
    assert len(shelf.history("law")) == 24
    assert shelf.names() == [*(f"a{i}" for i in range(8)), "law"]
    shelf.load("law")


WRITER = """
import sys
from pathlib import Path
from kameleon.adapters import Shelf
from kameleon.adapters.formats import read_adapter
from dataclasses import replace
shelf, adapter = Shelf(Path(sys.argv[1])), read_adapter(sys.argv[2])
for i in range(5):
    shelf.save(replace(adapter, name="shared"))
    shelf.save(replace(adapter, name=f"{sys.argv[3]}{i}"))
"""


def test_two_processes_do_not_lose_each_others_adapters(shelf, versions, tmp_path):
    write_adapter(versions[0], tmp_path / "given")
    command = [sys.executable, "-c", WRITER, str(shelf.root), str(tmp_path / "given")]
    writers = [subprocess.Popen([*command, who]) for who in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert len(shelf.history("shared")) == 10
    assert len(shelf.names()) == 11
    assert all(entry.fault is None for entry in shelf.entries())


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from kameleon.adapters import Shelf
from kameleon.adapters.formats import read_adapter

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
old, new = read_adapter(folder / "old"), read_adapter(folder / "new")
calls = ("replace", "rename", "fsync", "mkdir", "chmod", "unlink", "rmdir")

def die_at(call_number, after):
    "Every call that changes the disk is counted; this process ends like a killed one at the chosen."
    seen = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == call_number and not after:
                os._exit(9)
            result = function(*args, **kwargs)
            if seen == call_number:
                os._exit(9)
            return result
        return call
    for name in calls:
        setattr(os, name, counted(getattr(os, name)))

def in_child(work, call_number, after):
    child = os.fork()
    if not child:
        die_at(call_number, after)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

points = 0
for what in ("first save", "second save", "rollback", "remove"):
    for after in (False, True):
        for number in range(1, 200):
            shelf = Shelf(root / f"{what}{after}{number}")
            before = [] if what == "first save" else [replace(old, name="law")]
            before += [replace(new, name="law")] if what in ("rollback", "remove") else []
            for adapter in before:
                shelf.save(adapter)
            work = {
                "first save": lambda: shelf.save(replace(new, name="law")),
                "second save": lambda: shelf.save(replace(new, name="law")),
                "rollback": lambda: shelf.rollback("law"),
                "remove": lambda: shelf.remove("law"),
            }[what]
            status = in_child(work, number, after)
            found = shelf.load("law").fingerprint if shelf.has("law") else None
            allowed = {
                "first save": (None, new.fingerprint),
                "second save": (old.fingerprint, new.fingerprint),
                "rollback": (old.fingerprint, new.fingerprint),
                "remove": (new.fingerprint, None),
            }[what]
            assert found in allowed, (what, after, number, found)
            assert all(e.fault is None for e in shelf.entries()), (what, after, number)
            if status == 0:
                break
            points += 1
            shelf.save(replace(old, name="law"))  # the shelf is still usable
            assert shelf.load("law").fingerprint == old.fingerprint
        else:
            raise AssertionError("never ended")
print(points)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_write_leaves_the_old_state_or_the_new_one(tmp_path, versions):
    for name, adapter in zip(("old", "new"), versions, strict=False):
        part = dict(list(adapter.modules.items())[:2])
        write_adapter(replace(adapter, name=name, modules=part), tmp_path / name)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "shelves"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_a_refused_name_with_an_accent_is_told_which_letters_count(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="letters from a to z"):
        Shelf(tmp_path).path("mój")
