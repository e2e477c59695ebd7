"""Which library of kernels is loaded, whether it can take a tensor, and calls of its functions through ctypes.

`KAMELEON_NATIVE=off` forces the reference path; `plain`, `avx2`, `avx512`, `avx512bf16`, `neon` the kernels of one CPU
level. Otherwise the level is the one that torch itself found (`ATEN_CPU_CAPABILITY` is honoured). `KAMELEON_KERNELS` is
another folder to load them from, such as that of `make sanitize`. Load torch first: the kernels then share its OpenMP
threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from kameleon.errors import KernelError, SettingError
from kameleon.ops.native import abi
from kameleon.waiting import keep_idle_teams

SWITCH = "KAMELEON_NATIVE"
LEVELS = ("plain", "avx2", "avx512", "avx512bf16", "neon")
_FOLDER = Path(os.environ.get("KAMELEON_KERNELS") or Path(__file__).parent)
_KEPT_BYTES, _SPARING_KEPT_BYTES = 32 << 20, 2 << 20


@dataclass(frozen=True)
class Choice:
    """Which kernels run, and why. `level` is None on the reference path."""

    level: str | None
    reason: str


@lru_cache(maxsize=1)
def choice() -> Choice:
    """What runs on this machine, decided once per process. Raises SettingError for a level that cannot be had."""
    wish = os.environ.get(SWITCH, "")
    if wish == "off":
        return Choice(None, f"{SWITCH}=off")
    if wish and wish not in LEVELS:
        raise SettingError(f"{SWITCH}={wish!r}; use off, {', '.join(LEVELS)}, or unset it")
    built = sorted(path.stem.removeprefix("libkameleon_") for path in _FOLDER.glob("libkameleon_*.so"))
    if not built:
        return Choice(None, "no kernels were built: install g++ and install kameleon again to be several times faster")
    found = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "plain")
    if found == "avx512" and torch.cpu._is_avx512_bf16_supported():
        found = "avx512bf16"
    if platform.machine() in ("aarch64", "arm64"):
        found = "neon"
    level = wish or found
    if level not in built:
        raise SettingError(f"kernels for {level} were not built, only {', '.join(built)}; install kameleon again")
    return Choice(level, f"{SWITCH}={wish}" if wish else f"torch finds {torch.backends.cpu.get_cpu_capability()}")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    keep_idle_teams()  # torch's operators wait at barriers too, with or without kernels
    level = choice().level
    if level is None:
        if not os.environ.get(SWITCH):
            warnings.warn(f"slow: {choice().reason}", stacklevel=2)
        return None
    library = load(_FOLDER / f"libkameleon_{level}.so")
    library.kameleon_keep_memory(_KEPT_BYTES)
    return library


def load(path: Path) -> ctypes.CDLL:
    """The library, with its functions declared. Raises KernelError for one of another version's sources."""
    library = ctypes.CDLL(str(path))
    found = abi.differences(library)
    if found:
        shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        raise KernelError(
            f"the kernels in {path} were compiled from other sources ({shown}): compile them again with "
            "`python native/build.py` in a checkout, or install kameleon again"
        )
    abi.declare(library)
    return library


def keep_memory(*, sparing: bool) -> None:
    """Keep freed blocks under 32 MiB in the process, for speed; with `sparing` only those under 2 MiB, until they are
    given back.

    Kept blocks of many sizes leave holes: with a layer's buffers of tens of megabytes they doubled a process.
    """
    if available():
        call("keep_memory", _SPARING_KEPT_BYTES if sparing else _KEPT_BYTES)


def give_back_memory() -> None:
    """Return freed memory that this process keeps to the system."""
    if available():
        call("give_back_memory")


def clear(x: Tensor, *, sparing: bool) -> None:
    """Zero a dense `x`; with `sparing` its pages take no memory until something is written to them (Linux)."""
    if sparing and available() and x.is_cpu:
        call("clear", x, x.nbytes)
    else:
        x.zero_()


def compute_in_one_thread() -> None:
    """From now on the calling thread computes alone, torch's operators included.

    Each thread that starts parallel regions gets a team of its own, and two teams would fight for the cores.
    """
    torch.get_num_threads()  # torch sets a new thread's count at the first question, and then no more
    if available():
        call("use_threads", 1)


def available() -> bool:
    """Whether there are kernels at all; without them the reference path runs."""
    return _library() is not None


def can_run(*tensors: Tensor) -> bool:
    """Whether kernels can take these tensors: all are on the CPU, and all are fp32 or all bf16."""
    first = tensors[0].dtype
    return available() and first in abi.NUMBER_TYPES and all(t.dtype == first and t.is_cpu for t in tensors)


def can_multiply(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Whether products in `dtype` are Kameleon's own: all but bf16's on CPUs with AMX units, which only torch drives.

    They are as fast as torch's, add the side path while the output is still in registers, and unpack a weight straight
    into what is multiplied; in bf16 on CPUs that have no units for it they are tens of times faster. `tensors` must be
    on the CPU.
    """
    return (
        available()
        and dtype in abi.NUMBER_TYPES
        and not (dtype == torch.bfloat16 and torch_has_amx())
        and all(t.is_cpu for t in tensors)
    )


@lru_cache(maxsize=1)
def torch_has_amx() -> bool:
    """Whether torch drives AMX units here, which multiply bf16 some eight times as fast as it multiplies fp32."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_amx_tile_supported()


def address(x: Tensor) -> int:
    """Where the tensor's numbers are, for a kernel. Raises KernelError for a tensor that is not on the CPU."""
    if not x.is_cpu:
        raise KernelError(f"kernels take tensors on the CPU, not one of shape {tuple(x.shape)} on {x.device}")
    return x.data_ptr()


def call(name: str, *arguments: object) -> float:
    """Run one kernel of native/api.h. Tensors go as addresses: the caller answers for their type, shape and density.

    Raises KernelError for a tensor that is not on the CPU.
    """
    raw = [address(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
    kernel = getattr(_library(), f"kameleon_{name}")
    if not torch.autograd.profiler._is_profiler_enabled:
        return kernel(*raw)
    with torch.profiler.record_function(f"kameleon::{name}"):
        return kernel(*raw)


def type_code(x: Tensor | torch.dtype) -> int:
    """The number by which kernels know a tensor's type."""
    return abi.NUMBER_TYPES[x if isinstance(x, torch.dtype) else x.dtype]
