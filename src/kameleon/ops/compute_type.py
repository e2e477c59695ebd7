"""The type that a base is multiplied in: bf16 where the products that run here have units for it, else fp32.

Features of the CPU decide, and nothing is timed: the same command computes in the same type on a busy machine too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kameleon.errors import SettingError
from kameleon.ops.native import choice, torch_has_amx
from kameleon.settings import ComputeName

COMPUTE_TYPES: dict[ComputeName, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Each type by its name, which `--compute` takes and a checkpoint keeps."""


@dataclass(frozen=True)
class ComputeType:
    """A type to multiply in, and why it was taken."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> ComputeName:
        """Its name in `COMPUTE_TYPES`."""
        return compute_name(self.dtype)


def compute_name(dtype: torch.dtype) -> ComputeName:
    """A compute type's name in `COMPUTE_TYPES`. Raises SettingError for a type that nothing is multiplied in here."""
    for name, one in COMPUTE_TYPES.items():
        if one == dtype:
            return name
    known = " or ".join(str(one) for one in COMPUTE_TYPES.values())
    raise SettingError(f"{dtype!r} is no type to compute in; give {known}, or None for this machine's own")


def choose_compute_type(dtype: torch.dtype | None = None) -> ComputeType:
    """`dtype` if it is given; else bf16 where the products that run here have bf16 units, and fp32 elsewhere.

    Without such units bf16 is about as fast as fp32, and less exact. KAMELEON_NATIVE and ATEN_CPU_CAPABILITY count,
    since they decide which products run. Raises SettingError for a type or a KAMELEON_NATIVE that cannot be had.
    """
    if dtype is not None:
        return ComputeType(dtype, f"{compute_name(dtype)}: asked for")
    level, capability = choice().level, torch.backends.cpu.get_cpu_capability()
    if torch_has_amx():
        return ComputeType(torch.bfloat16, "bf16: torch multiplies in this CPU's AMX units")
    if level == "avx512bf16":
        return ComputeType(torch.bfloat16, "bf16: the kernels multiply in this CPU's AVX512-BF16 units")
    if level is not None:
        return ComputeType(torch.float32, f"fp32: the kernels of level {level} use no bf16 units")
    if capability == "AVX512" and torch.cpu._is_avx512_bf16_supported():
        return ComputeType(torch.bfloat16, "bf16: torch multiplies in this CPU's AVX512-BF16 units")
    return ComputeType(torch.float32, f"fp32: torch uses no bf16 units here ({capability})")
