"""kameleon doctor: this machine, the kernels that run on it, and its compute type."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kameleon.bug_report import bug_report
from kameleon.cli.console import Json, megabytes, notes, show, table
from kameleon.errors import SettingError
from kameleon.home import atomic_write, require_new

_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")

_DISK = {
    "adapters": "disk: adapters",
    "runs": "disk: runs (kameleon clean)",
    "bases": "disk: bases (kameleon base remove)",
    "cache": "disk: caches (kameleon clean)",
    "hub_cache": "disk: the hub's cache",
    "free": "disk: free",
}


def doctor(
    *,
    report: Annotated[
        Path | None,
        Parameter(
            help="Write a file for a bug report: versions, machine, settings, sizes, the place of the last error; no "
            "rows, no texts, no folders, no names, no keys. Read it before you send it."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what was found on this machine, which kernels are in use, the compute type with its reason, and disk use.

    Exit status 1 when the kernels do not run (everything works, several times slower).
    """
    import torch

    from kameleon.housekeeping import disk_use
    from kameleon.machine import cpu, total_memory_bytes
    from kameleon.ops import choose_compute_type, kernels

    chosen, compute = kernels(), choose_compute_type()
    name, units = cpu()
    features, memory = [feature for feature in _FEATURES if feature in units], total_memory_bytes()
    document = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "features": features,
        "memory_bytes": memory,
        "torch": torch.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_cuda": torch.version.cuda,
        "kernels": chosen.level,
        "kernels_reason": chosen.reason,
        "compute_type": compute.name,
        "compute_reason": compute.reason,
        "disk_bytes": disk_use(),
    }
    picture = table("what", "found")
    picture.add_row("processor", f"{name}, cores: {document['cores']}, threads used: {document['threads']}")
    picture.add_row("features", ", ".join(features) or "none that matter")
    picture.add_row("memory", "unknown" if memory is None else f"{memory / 1e9:.1f} GB")
    picture.add_row("torch", f"{document['torch']} ({document['torch_capability']})")
    if torch.version.cuda is not None:
        picture.add_row("", _cuda_advice(torch.__version__, torch.version.cuda))
    picture.add_row("kernels", f"{chosen.level or 'none, the reference path'} ({chosen.reason})")
    picture.add_row("compute type", compute.reason)
    for name, size_bytes in document["disk_bytes"].items():
        picture.add_row(_DISK[name], megabytes(size_bytes))
    if report is not None:
        require_new(report)
        try:
            with atomic_write(report) as file:
                file.write(bug_report(document).encode())
        except OSError as error:
            raise SettingError(f"{report} cannot be written: {error}") from error
        notes.print(f"written to {report}: read it before you send it", highlight=False)
    show(document, picture, as_json=json)
    if chosen.level is None:
        raise SystemExit(1)


def _cuda_advice(version: str, cuda: str) -> str:
    """What to do about a torch that has come with CUDA, which nothing here uses."""
    return (
        f"a build for CUDA {cuda}, gigabytes that Kameleon does not use, since it computes on the CPU; the CPU build: "
        "pip install --force-reinstall --no-deps --index-url https://download.pytorch.org/whl/cpu "
        f"torch=={version.partition('+')[0]} (the packages nvidia-* and triton can be uninstalled then)"
    )
