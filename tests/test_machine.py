import os
import sys
from pathlib import Path

import pytest

from kameleon import machine

on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


@on_linux
def test_this_process_holds_less_than_the_machine_has():
    held, peak, total = machine.resident_bytes(), machine.peak_bytes(), machine.total_memory_bytes()
    assert held and total and 1_000_000 < held < 1.1 * peak < total
    assert 0 < (machine.available_memory_bytes() or 0) < total
    assert 1 <= machine.allowed_cores() <= (os.cpu_count() or 1)
    assert machine.cpu()[0]


@on_linux
def test_mapped_files_with_certain_endings_are_left_out():
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    assert (machine.resident_bytes(without=tuple(files)) or 0) < (machine.resident_bytes() or 0)


def test_without_proc_what_only_it_says_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    assert machine.available_memory_bytes() is machine.resident_bytes() is None
    name, features = machine.cpu()
    assert isinstance(name, str) and not features
    if sys.platform != "win32":
        assert machine.peak_bytes() > 1_000_000
