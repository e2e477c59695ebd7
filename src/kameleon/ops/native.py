"""The C++ kernels of `native/`, called through ctypes on tensors. Here is decided whether they run.

`KAMELEON_NATIVE=off` forces the reference path; `plain`, `avx2`, `avx512`, `neon` force the kernels of one CPU level.
Otherwise the level is the one that torch itself found (`ATEN_CPU_CAPABILITY` is honoured). Load torch first: the
kernels then share its OpenMP threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.errors import SettingError

SWITCH = "KAMELEON_NATIVE"
LEVELS = ("plain", "avx2", "avx512", "neon")
_TYPES = {torch.float32: 0, torch.bfloat16: 1}


class _Term(ctypes.Structure):
    _fields_ = [
        ("a", c_void_p),
        ("a_row", c_int64),
        ("a_col", c_int64),
        ("a_type", c_int64),
        ("b", c_void_p),
        ("b_row", c_int64),
        ("b_col", c_int64),
        ("b_type", c_int64),
        ("k", c_int64),
        ("first_column", c_int64),
        ("last_column", c_int64),
        ("scale", c_float),
    ]


# Argument types by one letter each: p pointer, n count or stride, f float, d double.
_LETTERS = {"p": c_void_p, "n": c_int64, "f": c_float, "d": c_double}
_SIGNATURES = {
    "gemm": "pnnnnpnn",
    "rms_norm": "nppfnnp",
    "rms_norm_back": "nppfpnnp",
    "rope": "npppfnnnn",
    "swiglu": "npnnp",
    "swiglu_back": "nppnnp",
    "cross_entropy": "nppnnn",
    "adamw": "ppppndddddddn",
    "attention": "npppppp",
    "attention_back": "npppppppppp",
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
    if platform.machine() in ("aarch64", "arm64"):
        found = "neon"
    level = wish or found
    if level not in built:
        raise SettingError(f"kernels for {level} were not built, only {', '.join(built)}; install kameleon again")
    return Choice(level, f"{SWITCH}={wish}" if wish else f"torch finds {torch.backends.cpu.get_cpu_capability()}")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
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
    library.kameleon_keep_memory()
    return library


def runs(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: they are there, and all are fp32, or all bf16, on the CPU."""
    first = tensors[0]
    return (
        _library() is not None
        and first.dtype in _TYPES
        and all(t.dtype == first.dtype and t.device.type == "cpu" for t in tensors)
    )


def multiplies(x: Tensor) -> bool:
    """Whether products of `x` are Kameleon's own: on CPUs without AVX-512.

    There they are as fast as torch's in fp32, and add the side path while the output is still in registers; in bf16,
    for which such CPUs have no units, they are tens of times faster. With AVX-512 and AMX torch is at the limit.
    """
    return runs(x) and choice().level != "avx512"


def call(name: str, *arguments: object) -> float:
    """Run one kernel of native/api.h; tensors go as pointers (the caller answers for type, shape and density)."""
    raw = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    kernel = getattr(_library(), f"kameleon_{name}")
    if not torch.autograd.profiler._is_profiler_enabled:
        return kernel(*raw)
    with torch.profiler.record_function(f"kameleon::{name}"):
        return kernel(*raw)


def type_code(x: Tensor) -> int:
    """The number by which kernels know x's type."""
    return _TYPES[x.dtype]


class Term(NamedTuple):
    """scale · a @ b for the columns of the result from `first_column` on, as many as b has.

    `a` [m, k] and `b` [k, columns], each fp32 or bf16, with any strides.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    first_column: int = 0


def gemm(out: Tensor, terms: Sequence[Term], accumulate: bool = False) -> Tensor:
    """out [m, n] = Σ `terms`, added to what `out` holds if `accumulate`. Returns `out`.

    `out` is fp32 or bf16, its rows of any stride. Sums are fp32, rounded once.
    """
    packed = (_Term * len(terms))()
    for term, (a, b, scale, first) in zip(packed, terms, strict=True):
        last = first + b.shape[1]
        assert a.shape == (out.shape[0], b.shape[0]) and last <= out.shape[1], (a.shape, b.shape, first, out.shape)
        term.a, term.a_row, term.a_col, term.a_type = a.data_ptr(), a.stride(0), a.stride(1), _TYPES[a.dtype]
        term.b, term.b_row, term.b_col, term.b_type = b.data_ptr(), b.stride(0), b.stride(1), _TYPES[b.dtype]
        term.k, term.first_column, term.last_column, term.scale = a.shape[1], first, last, scale
    assert out.stride(1) == 1
    call("gemm", packed, len(terms), *out.shape, _TYPES[out.dtype], out, out.stride(0), int(accumulate))
    return out
