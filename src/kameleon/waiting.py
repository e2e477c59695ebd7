"""How OpenMP's threads wait for each other: they spin for a fraction of a millisecond, then sleep.

By default libgomp spins for milliseconds at each barrier. On a busy machine the spinning thread takes the processor
from the thread that it waits for, and everything becomes several times slower (benchmarks/busy.json). GOMP_SPINCOUNT
(in libgomp's manual) sets how long it spins, but libgomp reads it when torch loads it. If torch was imported first, as
in many notebooks, an idle team of threads has the same effect at some cost: libgomp spins only 100 turns while it
manages more threads than there are processors. Measurements are in docs/decisions/threads-under-load.md.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

_SPINS = "5000"  # fewer make training on an idle machine slower by several percent, more on a busy one
_SPIN_COUNT, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
_MAPS = Path("/proc/self/maps")


def is_chosen() -> bool:
    """Whether the environment sets how threads wait."""
    return bool(os.environ.get(_SPIN_COUNT) or os.environ.get(_POLICY))


def spin_shortly() -> None:
    """Set the environment for the libgomp that torch will load, unless a person set it or torch is loaded."""
    if "torch" not in sys.modules and not is_chosen():
        os.environ[_SPIN_COUNT] = _SPINS


def keep_idle_teams() -> int:
    """Unless the environment sets how threads wait, keep an idle team in each loaded libgomp; returns their number.

    A team has one thread more than there are processors. It sleeps as long as the daemon thread that owns it.
    """
    if is_chosen() or not _MAPS.exists():  # without /proc (not Linux) OpenMP is not libgomp
        return 0
    files = {line.split()[-1] for line in _MAPS.read_text(errors="replace").splitlines() if "/libgomp" in line}
    for file in files:
        _start_idle_team(ctypes.CDLL(file))
    return len(files)


def _start_idle_team(libgomp: ctypes.CDLL) -> None:
    started, never = threading.Event(), threading.Event()
    nothing = ctypes.cast(libgomp.omp_get_thread_num, ctypes.c_void_p)  # the region's body: a call without effect
    threads = (os.cpu_count() or 1) + 1

    def keep() -> None:
        libgomp.GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
        started.set()
        never.wait()

    threading.Thread(target=keep, name="kameleon-idle-team", daemon=True).start()
    started.wait()
