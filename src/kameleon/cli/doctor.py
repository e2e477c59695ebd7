"""kameleon doctor: this machine, the kernels that run on it, and its compute type."""

from __future__ import annotations

import os

from kameleon.cli.console import Json, show, table

_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")


def doctor(*, json: Json = False) -> None:
    """Show what was found on this machine, which kernels are in use, and the compute type with its reason.

    Exit status 1 when the kernels do not run (everything works, several times slower).
    """
    import torch

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
