"""The machine on which a result was measured: processor, units, memory, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kameleon.machine import cpu, total_memory_bytes

# The units that decide the speed of fp32 and bf16 products.
_UNITS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
_LIBRARIES = ("kameleon", "torch", "transformers", "peft", "trl", "bitsandbytes", "gguf")


def machine() -> dict[str, Any]:
    """Processor, its units, memory, versions and commit, for the head of a result."""
    name, units = cpu()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "units": [unit for unit in _UNITS if unit in units],
        "memory_bytes": total_memory_bytes(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this source tree, with "+" if files differ from it; None outside a repository."""
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
