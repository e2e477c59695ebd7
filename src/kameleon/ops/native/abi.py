"""The C interface of native/api.h on Python's side: structures, signatures, codes and constants, each declared once.

A library tells what it was compiled with (`kameleon_abi`), and `differences` compares that with this file: a library of
another version would read structures that are laid out otherwise.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int64, c_void_p
from typing import Literal

import torch

VERSION = 2
"""ABI_VERSION of native/api.h: raised by one with every change of a signature or of a structure's fields."""

PAGE_TOKENS = 16
"""Tokens of a page of keys and values: as many as the widest vector has lanes, few enough that a half-filled last page
wastes little."""
B_COLUMNS = 16
"""Columns of B that lie together in a side table."""
MAX_FEW_ROWS = 8
"""Most rows that the `few_rows` kernel multiplies."""

NUMBER_TYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
"""Types that kernels compute in: FP32 and BF16 of `Type`."""
KINDS = ("F32", "BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "NF4")
"""How matrices are stored: ggml's names, and NF4 (`ops/nf4.py`), in the order of `Type` from FIRST_PACKED on."""
FIRST_PACKED = len(NUMBER_TYPES)
PLAIN_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Kinds of plain matrices, whose type torch has too."""

Activation = Literal["silu", "gelu_tanh"]
ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1}

PROJECTIONS = ("qkv", "o", "gate_up", "down")
"""The joined projections of a layer in the order of a `Side` table's columns."""


def stored_code(kind: str) -> int:
    """The number by which kernels know one of `KINDS`."""
    return FIRST_PACKED + KINDS.index(kind)


class Stored(ctypes.Structure):
    """A matrix as a file holds it: rows of `row_bytes`, reordered inside heads if `half`."""

    _fields_ = [("data", c_void_p), ("type", c_int64), ("row_bytes", c_int64), ("half", c_int64)]


class Term(ctypes.Structure):
    """One summand scale · A · B of a product."""

    _fields_ = [
        ("a", c_void_p),
        *((name, c_int64) for name in ("a_row", "a_col", "a_type")),
        ("b", c_void_p),
        *((name, c_int64) for name in ("b_row", "b_col", "b_type", "k", "first_column", "last_column", "half")),
        ("scale", c_float),
    ]


class Attention(ctypes.Structure):
    """Shapes of one attention call in training."""

    _fields_ = [
        ("segments", c_int64),
        ("lengths", c_void_p),
        ("parents", c_void_p),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "stride", "window")),
    ]


class Part(ctypes.Structure):
    """One matrix of a `Weight`."""

    _fields_ = [("stored", Stored), ("rows", c_int64)]


class Weight(ctypes.Structure):
    """Frozen matrices that share their input, stacked along the output."""

    _fields_ = [("parts", c_void_p), ("count", c_int64), ("inputs", c_int64), ("outputs", c_int64)]


class BranchB(ctypes.Structure):
    """One projection's B in a joined side path, for generation."""

    _fields_ = [
        ("b", c_void_p),
        *((name, c_int64) for name in ("first_rank", "rank", "start", "stop")),
        ("scaling", c_float),
    ]


class Side(ctypes.Structure):
    """One adapter's factors for one joined projection, for generation."""

    _fields_ = [("a", c_void_p), ("branches", c_void_p), ("rank", c_int64), ("count", c_int64)]


class SideRun(ctypes.Structure):
    """Neighbouring tokens that go through one adapter, and its `Side` table [layers, PROJECTIONS]."""

    _fields_ = [("start", c_int64), ("stop", c_int64), ("sides", c_void_p)]


class Layer(ctypes.Structure):
    """One decoder layer. A part that a family does not have is null."""

    _fields_ = [
        ("input_norm", c_void_p),
        ("qkv", Weight),
        ("qkv_bias", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("o", Weight),
        ("o_bias", c_void_p),
        ("o_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("gate_up", Weight),
        ("gate_up_bias", c_void_p),
        ("down", Weight),
        ("down_bias", c_void_p),
        ("down_norm", c_void_p),
        ("window", c_int64),
        ("rope", c_int64),
    ]


class Stack(ctypes.Structure):
    """All layers of a decoder."""

    _fields_ = [
        ("layers", c_void_p),
        *((name, c_int64) for name in ("count", "hidden", "heads", "kv_heads", "head_dim", "intermediate")),
        ("activation", c_int64),
        ("eps", c_float),
    ]


class Pages(ctypes.Structure):
    """Keys and values of one layer, and where each segment's sequence lies in them."""

    _fields_ = [
        ("segments", c_int64),
        *((name, c_void_p) for name in ("lengths", "offsets", "tables")),
        *((name, c_int64) for name in ("table_width", "heads", "kv_heads", "head_dim", "window")),
        ("keys", c_void_p),
        ("values", c_void_p),
    ]


class Pass(ctypes.Structure):
    """One pass of tokens through a `Stack`."""

    _fields_ = [
        ("tokens", c_int64),
        ("runs", c_int64),
        ("run", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("pages", Pages),
        ("layer_bytes", c_int64),
    ]


STRUCTURES = (Stored, Term, Attention, Part, Weight, BranchB, Side, SideRun, Layer, Stack, Pages, Pass)

# Arguments by one letter each: p pointer, n count or stride, f float, d double.
_LETTERS = {"p": c_void_p, "n": c_int64, "f": c_float, "d": c_double}
SIGNATURES = {
    "gemm": "pnnnnpnnpn",
    "unpack": "ppnnnnp",
    "few_rows": "pnpnnnnpn",
    "rms_norm": "nppfnnnp",
    "rms_norm_back": "nppfnpnnp",
    "rope": "npppfnnnn",
    "gated": "nnpnnp",
    "gated_back": "nnppnnp",
    "cross_entropy": "nppnnnnp",
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
_RETURN_DOUBLE = {"adamw"}


def expected() -> dict[str, int]:
    """By name: the version, the size of each structure in bytes, the code of each type, the constants."""
    return {
        "ABI_VERSION": VERSION,
        **{f"sizeof {one.__name__}": ctypes.sizeof(one) for one in STRUCTURES},
        "FP32": NUMBER_TYPES[torch.float32],
        "BF16": NUMBER_TYPES[torch.bfloat16],
        **{f"stored {kind}" if kind in PLAIN_KINDS.values() else kind: stored_code(kind) for kind in KINDS},
        "SILU": ACTIVATIONS["silu"],
        "GELU_TANH": ACTIVATIONS["gelu_tanh"],
        "PAGE_TOKENS": PAGE_TOKENS,
        "B_COLUMNS": B_COLUMNS,
        "MAX_FEW_ROWS": MAX_FEW_ROWS,
    }


def differences(library: ctypes.CDLL) -> list[str]:
    """How a library differs from this file, one line for each name; empty for a library of these sources."""
    try:
        tell = library.kameleon_abi
    except AttributeError:
        return ["it does not tell its version"]
    tell.restype = c_char_p
    told = {name: int(number) for name, _, number in (line.rpartition("=") for line in tell().decode().split(";"))}
    wanted = expected()
    return [
        f"{name} is {told.get(name, 'missing')}, expected {wanted.get(name, 'none')}"
        for name in sorted(told.keys() | wanted.keys())
        if told.get(name) != wanted.get(name)
    ]


def declare(library: ctypes.CDLL) -> None:
    """Give ctypes the argument and return types of every function."""
    for name, letters in SIGNATURES.items():
        function = getattr(library, f"kameleon_{name}")
        function.argtypes = [_LETTERS[letter] for letter in letters]
        function.restype = c_double if name in _RETURN_DOUBLE else None
