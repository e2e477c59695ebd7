"""Folders for what is not finished: those of ended processes are swept, all others stay."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kameleon import home, scratch
from kameleon.home import atomic_folder, atomic_write, sweep_home
from kameleon.scratch import in_use, scratch_folder, sweep

HOLDER = """
import sys
from pathlib import Path
from kameleon.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_bytes(b"half")
    print(folder.name, flush=True)
    sys.stdin.read()
"""

KILLED = """
import os, sys
from pathlib import Path
from killing import killed_at
from kameleon.home import atomic_folder, atomic_write, discard
from kameleon.scratch import sweep

folder = Path(sys.argv[1])

def write_file():
    with atomic_write(folder / "x") as file:
        file.write(b"new")

def write_folder():
    with atomic_folder(folder / "x") as fresh:
        (fresh / "part").write_bytes(b"new")

def remove():
    discard(folder / "x")

kills = 0
for work, name, states in (
    (write_file, "x", (b"old", b"new")), (write_folder, "x/part", (b"old", b"new")), (remove, "x/part", (b"old", None))
):
    number, killed = 0, True
    while killed:
        number += 1
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"old")
        killed = killed_at(number, str(folder), work)
        kills += killed
        sweep(folder)
        found = (folder / name).read_bytes() if (folder / name).exists() else None
        assert found in (states if killed else states[1:]), (work, number, found)
        assert os.listdir(folder) == ([] if found is None else ["x"]), (work, number)
    (folder / "x").unlink() if (folder / "x").is_file() else None
print(kills)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that works in a scratch folder in `tmp_path`, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_the_folder_of_a_living_process_stays_and_that_of_a_killed_one_is_swept(holder, tmp_path):
    process, folder = holder
    sweep(tmp_path)
    assert (folder / "new").read_bytes() == b"half" and in_use(tmp_path)
    process.kill()
    process.wait()
    assert not in_use(tmp_path)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_keeps_its_own_folder_when_it_writes_there_again(tmp_path):
    with scratch_folder(tmp_path) as first, atomic_write(tmp_path / "file") as file:
        file.write(b"new")
        assert first.is_dir()
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_person_made_stays_even_if_it_looks_alike(tmp_path):
    alike = [tmp_path / name for name in (".kameleon-0123456789abcdef", ".kameleon-mine", ".file.abcd1234", ".held")]
    for folder in alike:
        folder.mkdir()
        (folder / "notes").write_bytes(b"mine")
    (tmp_path / ".kameleon-00112233445566aa").write_bytes(b"a file")
    (tmp_path / ".kameleon-00112233445566bb").symlink_to(alike[1])
    (alike[1] / ".held").touch()
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert all((folder / "notes").exists() for folder in alike)
    assert len(os.listdir(tmp_path)) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_kill_at_any_change_the_old_state_or_the_new_one_is_there_and_nothing_else(tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path / "folder"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 25


def test_where_there_are_no_locks_nothing_is_swept(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(scratch.fcntl, "flock", none)
        with scratch_folder(tmp_path) as folder:
            (folder / "new").write_bytes(b"half")
            patch.undo()
            sweep(tmp_path)
            assert (folder / "new").exists() and in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_home_is_swept_when_a_command_starts(run):
    for folder in (home.home(), home.runs_dir() / "law", home.adapters_dir() / "law", home.cache_dir()):
        (folder / ".kameleon-0123456789abcdef").mkdir(parents=True)
        (folder / ".kameleon-0123456789abcdef" / ".held").touch()
        (folder / ".kameleon-0123456789abcdef" / "new").write_bytes(b"half")
    assert run("adapter", "list")[0] == 0
    assert list(home.home().rglob(".kameleon-*")) == []
    sweep_home()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_and_folders_have_the_rights_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a" / "file") as file:
            file.write(b"new")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inner").write_bytes(b"new")
    finally:
        os.umask(before)
    made = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert made == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in made}
