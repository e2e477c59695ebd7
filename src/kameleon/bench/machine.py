"""On what a result was measured: processor, units, versions, commit, free memory."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# The units that decide how fast fp32 and bf16 multiply.
_UNITS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
_LIBRARIES = ("kameleon", "torch", "transformers", "peft", "trl", "bitsandbytes", "gguf")


def machine() -> dict[str, Any]:
    """Processor, its units, memory, versions and commit, for the head of a result."""
    info = _cpuinfo()
    units = info.get("flags", "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "units": [unit for unit in _UNITS if unit in units],
        "memory_bytes": _memory_bytes("MemTotal"),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _memory_bytes(key: str) -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    found = [line.split() for line in path.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(found[0][1]) * 1024 if found else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this source tree, with "+" when files differ from it; None outside a repository."""
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            asked = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return asked.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder.parent))
    return f"{commit}+" if commit and changed else commit
