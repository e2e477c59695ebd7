"""The C++ kernels of `native/`, called through ctypes on tensors. Here is decided whether they run.

`KAMELEON_NATIVE=off` forces the reference path; `plain`, `avx2`, `avx512`, `avx512bf16`, `neon` the kernels of one CPU
level. Otherwise the level is the one that torch itself found (`ATEN_CPU_CAPABILITY` is honoured). Load torch first: the
kernels then share its OpenMP threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from ctypes import c_double, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from kameleon.errors import SettingError
from kameleon.waiting import keep_idle_teams

SWITCH = "KAMELEON_NATIVE"
LEVELS = ("plain", "avx2", "avx512", "avx512bf16", "neon")
_TYPES = {torch.float32: 0, torch.bfloat16: 1}
_KEPT_BYTES, _SPARING_KEPT_BYTES = 32 << 20, 2 << 20


# Argument types by one letter each: p pointer, n count or stride, f float, d double.
_LETTERS = {"p": c_void_p, "n": c_int64, "f": c_float, "d": c_double}
_SIGNATURES = {
    "gemm": "pnnnnpnnpn",
    "unpack": "ppnnnnp",
    "few_rows": "pnpnnnnpn",
    "rms_norm": "nppfnnnp",
    "rms_norm_back": "nppfnpnnp",
    "rope": "npppfnnnn",
    "gated": "nnpnnp",
    "gated_back": "nnppnnp",
    "cross_entropy": "nppnnnn",
    "adamw": "ppppndddddddn",
    "keep_memory": "n",
    "use_threads": "n",
    "place_b": "npnnp",
    "give_back_memory": "",
    "clear": "pn",
    "attention": "npppppp",
    "attention_back": "npppppppppp",
    "attention_paged": "nppp",
    "project": "nppnp",
    "layers": "nppp",
}


@dataclass(frozen=True)
class Choice:
    """Which kernels run, and why. `level` is None on the reference path."""

    level: str | None
    reason: str


@lru_cache(maxsize=1)
def choice() -> Choice:
    """What runs on this machine, decided once per process. Raises SettingError for a wish that cannot be met."""
    wish = os.environ.get(SWITCH, "")
    if wish == "off":
        return Choice(None, f"{SWITCH}=off")
    if wish and wish not in LEVELS:
        raise SettingError(f"{SWITCH}={wish!r}; use off, {', '.join(LEVELS)}, or unset it")
    built = sorted(path.stem.removeprefix("libkameleon_") for path in Path(__file__).parent.glob("libkameleon_*.so"))
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
    library = ctypes.CDLL(str(Path(__file__).parent / f"libkameleon_{level}.so"))
    for name, letters in _SIGNATURES.items():
        function = getattr(library, f"kameleon_{name}")
        function.argtypes = [_LETTERS[letter] for letter in letters]
        function.restype = c_double if name in ("cross_entropy", "adamw") else None
    library.kameleon_keep_memory(_KEPT_BYTES)
    return library


def keep_memory(sparing: bool) -> None:
    """Keep freed blocks under 32 MiB in the process, for speed; `sparing`, only those under 2 MiB, and until `spare`.

    Kept blocks of many sizes leave holes: with a layer's buffers of tens of megabytes they doubled a process.
    """
    if available():
        call("keep_memory", _SPARING_KEPT_BYTES if sparing else _KEPT_BYTES)


def give_back_memory() -> None:
    """Return to the system what this process keeps of freed memory."""
    if available():
        call("give_back_memory")


def clear(x: Tensor, sparing: bool) -> None:
    """Zero a dense `x`; `sparing`, its pages take no memory until something is written to them (Linux)."""
    if sparing and available():
        call("clear", x, x.nbytes)
    else:
        x.zero_()


def compute_in_one_thread() -> None:
    """From now on the calling thread computes alone, torch's operators included.

    Each thread that starts parallel regions gets a team of its own, which would fight for the cores with the team of
    whoever computes beside it.
    """
    torch.get_num_threads()  # torch sets a new thread's count when it is first asked for, and then no more
    if available():
        call("use_threads", 1)


def available() -> bool:
    """Whether there are kernels at all; without them the reference path runs."""
    return _library() is not None


def runs(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: they are there, and all are fp32, or all bf16, on the CPU."""
    first = tensors[0]
    return (
        available()
        and first.dtype in _TYPES
        and all(t.dtype == first.dtype and t.device.type == "cpu" for t in tensors)
    )


def multiplies(dtype: torch.dtype) -> bool:
    """Whether products of this type are Kameleon's own: all but bf16's on CPUs with AMX units, which only torch drives.

    They are as fast as torch's, add the side path while the output is still in registers, and unpack a weight straight
    into what is multiplied; in bf16 on CPUs that have no units for it they are tens of times faster.
    """
    return available() and dtype in _TYPES and not (dtype == torch.bfloat16 and torch_has_amx())


@lru_cache(maxsize=1)
def torch_has_amx() -> bool:
    """Whether torch drives AMX units here, which multiply bf16 some eight times as fast as it multiplies fp32."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_amx_tile_supported()


def call(name: str, *arguments: object) -> float:
    """Run one kernel of native/api.h; tensors go as pointers (the caller answers for type, shape and density)."""
    raw = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    kernel = getattr(_library(), f"kameleon_{name}")
    if not torch.autograd.profiler._is_profiler_enabled:
        return kernel(*raw)
    with torch.profiler.record_function(f"kameleon::{name}"):
        return kernel(*raw)


def type_code(x: Tensor | torch.dtype) -> int:
    """The number by which kernels know a tensor's type."""
    return _TYPES[x if isinstance(x, torch.dtype) else x.dtype]
