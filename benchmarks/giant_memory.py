"""Memory of a step on a giant base, and whether it finishes in less memory than the base's file has.

    .venv/bin/python benchmarks/giant_memory.py [BASE]      (llama3-8b-q4_k_m-random)

Trains rank 16 on all linear layers, 1 × 512 tokens with activation checkpointing, in a process of its own: once with
all memory, once in a Linux control group of 3 GB, page cache included, without swap (needs root).
Writes benchmarks/giant_memory.json.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from kameleon.adapters import Card
from kameleon.adapters.resident import Bank
from kameleon.bases import load_base
from kameleon.bench.bases import base_path
from kameleon.bench.cases import Case
from kameleon.bench.machine import machine
from kameleon.bench.ours import pack_rows
from kameleon.settings import Recipe
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee, fresh_adapter

CAP_BYTES = 3_000_000_000
STEPS = 1
TOKENS = 512
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_GROUP = (_V1 if _V1.is_dir() else _V2) / "kameleon-giant"


def main(ref: str) -> None:
    path = base_path(ref)
    result: dict[str, Any] = {
        "machine": machine(),
        "base": ref,
        "file_bytes": path.stat().st_size,
        "tokens": TOKENS,
        "runs": [],
    }
    for cap in (None, CAP_BYTES):
        command = [sys.executable, __file__, "--one", str(path), str(cap or 0)]
        run = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        result["runs"].append(run)
        print(json.dumps(run), flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def one(path: str, cap: int) -> None:
    """Train in this process, which first puts itself under the cap. Prints memory and seconds as JSON."""
    if cap:
        _forget(path)
        _confine(cap)
    peaks = {"RssAnon": 0, "VmSwap": 0}
    threading.Thread(target=_watch, args=(peaks,), daemon=True).start()
    started = time.perf_counter()
    base = load_base(path)
    bank, recipe = Bank(base), Recipe()
    slot = bank.add(fresh_adapter(base, "giant", recipe, Card(base_id=path, base_fingerprint=base.fingerprint)))
    trainee = Trainee(bank, "giant", recipe)
    load_s, seconds, losses = time.perf_counter() - started, [], []
    passes = pack_rows(Case("", 1, TOKENS).batch(0, base.config.vocab_size), slot=slot, max_tokens=TOKENS)
    for _ in range(STEPS):
        started = time.perf_counter()
        layers = base.config.num_layers
        [result] = train_step(base, bank, [trainee], passes, learning_rates=[1e-4], checkpoint_layers=layers)
        losses.append(result.loss)
        seconds.append(time.perf_counter() - started)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    document = {
        "cap_bytes": cap or None,
        "compute": str(base.compute_dtype),
        "threads": torch.get_num_threads(),
        "load_s": load_s,
        "step_s": seconds,
        "losses": losses,
        "peak_bytes": usage.ru_maxrss * 1024,
        "private_bytes": peaks["RssAnon"],
        "swapped_bytes": peaks["VmSwap"],
        "faults_read_from_disk": usage.ru_majflt,
        "read_bytes": usage.ru_inblock * 512,
        "group_peak_bytes": _group_peak_bytes() if cap else None,
    }
    print(json.dumps(document))


def _forget(path: str) -> None:
    """Drop the file's pages from the page cache: they would count for the group that read them first."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _group_peak_bytes() -> int:
    """Peak memory of the group, page cache included."""
    name = "memory.max_usage_in_bytes" if _V1.is_dir() else "memory.peak"
    return int((_GROUP / name).read_text())


def _confine(cap: int) -> None:
    group = _GROUP
    if group.exists():
        group.rmdir()  # so that its peak begins anew
    group.mkdir()
    if _V1.is_dir():
        (group / "memory.limit_in_bytes").write_text(str(cap))
        (group / "memory.swappiness").write_text("0")
    else:
        (group / "memory.max").write_text(str(cap))
        (group / "memory.swap.max").write_text("0")
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _watch(peaks: dict[str, int]) -> None:
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)
        time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else "llama3-8b-q4_k_m-random")
