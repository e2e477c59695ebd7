"""What the system says of this machine and of this process, in bytes and cores. Each call asks anew.

The answers come from /proc, which only Linux has. Each function says what it returns elsewhere.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

_PROC = Path("/proc")


def cpu() -> tuple[str, frozenset[str]]:
    """The processor's name, and its features as Linux spells them ("avx2"); without /proc no features."""
    told: dict[str, str] = {}
    for line in _lines("cpuinfo"):
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())  # the first core's; the others are alike
    name = told.get("model name") or platform.processor() or platform.machine()
    return name, frozenset((told.get("flags") or told.get("Features") or "").split())


def allowed_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not limit a process to some."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory_bytes() -> int | None:
    """The machine's memory; None on Windows."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int | None:
    """What new processes can hold without swapping; None without /proc."""
    return _kilobytes("meminfo", "MemAvailable")


def resident_bytes(*, without: tuple[str, ...] = ()) -> int | None:
    """Memory that this process holds now, mapped files with these endings left out; None without /proc."""
    if not (lines := _lines("self/smaps")):
        return None
    held, counts = 0, True
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):  # the head of a mapping: addresses, rights, …, file
            counts = not line.endswith(without)
        elif words[0] == "Rss:" and counts:
            held += int(words[1]) * 1024
    return held


def peak_bytes() -> int:
    """The most memory that this process has held so far; 0 on Windows."""
    peak = _kilobytes("self/status", "VmHWM")
    if peak is not None:  # getrusage counts what the parent held when it started this process
        return peak
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _lines(file: str) -> list[str]:
    path = _PROC / file
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _kilobytes(file: str, key: str) -> int | None:
    """The value of a line "KEY: 123 kB", in bytes."""
    found = (line.split() for line in _lines(file) if line.startswith(f"{key}:"))
    return next((int(words[1]) * 1024 for words in found), None)


def open_files(wanted: int) -> int:
    """How many files this process may have open, once its soft limit is raised to `wanted` as far as the hard one goes.

    Windows sets no such limit: there it is `wanted`.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= reachable:
        return wanted if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return reachable
