"""OpenMP's threads sleep soon when they wait, also where torch was loaded before Kameleon; a person's choice stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="OpenMP is libgomp on Linux only")

_LOOK = """
from kameleon.ops import native
before = len(os.listdir("/proc/self/task"))
native.available()
print(os.environ.get("GOMP_SPINCOUNT"), len(os.listdir("/proc/self/task")) - before)
"""


def loaded(imports, **environment):
    """GOMP_SPINCOUNT in a new process, and how many threads come with the kernels."""
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", f"import os, {imports}\n{_LOOK}"]
    done = subprocess.run(command, env={**unset, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spins, came = done.stdout.split()
    return spins, int(came)


def test_threads_spin_shortly_where_kameleon_is_imported_first():
    assert loaded("kameleon") == ("5000", 0)


def test_an_idle_team_makes_threads_spin_shortly_where_torch_is_imported_first():
    spins, came = loaded("torch, kameleon")
    assert spins == "None"
    assert came > (os.cpu_count() or 1)


def test_a_choice_in_the_environment_stands():
    assert loaded("torch, kameleon", OMP_WAIT_POLICY="active") == ("None", 0)
    assert loaded("kameleon", GOMP_SPINCOUNT="7") == ("7", 0)
