"""The C++ kernels of `native/`: which of them run, and how they are called. `abi.py` declares their interface."""

from kameleon.ops.native.library import (
    LEVELS,
    SWITCH,
    Choice,
    address,
    available,
    call,
    can_multiply,
    can_run,
    choice,
    clear,
    compute_in_one_thread,
    give_back_memory,
    keep_memory,
    torch_has_amx,
    type_code,
)

__all__ = [
    "LEVELS",
    "SWITCH",
    "Choice",
    "address",
    "available",
    "call",
    "can_multiply",
    "can_run",
    "choice",
    "clear",
    "compute_in_one_thread",
    "give_back_memory",
    "keep_memory",
    "torch_has_amx",
    "type_code",
]
