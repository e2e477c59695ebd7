"""How much memory a server takes where its limits leave it open."""

from __future__ import annotations

from typing import NamedTuple

from kameleon.bases import Base
from kameleon.generation import page_bytes, pages_for
from kameleon.machine import available_memory_bytes
from kameleon.settings import Limits

_SHARE = 1 / 8  # of what is free: for each of two, and most of it stays for other programs
_LEAST_BYTES = 64 << 20
_UNKNOWN_FREE_BYTES = 1 << 30  # taken for free where the system does not tell


class MemoryBudget(NamedTuple):
    """Bytes for keys and values, and for resident adapters."""

    kv_cache_bytes: int
    adapter_bytes: int


def memory_budget(limits: Limits, base: Base) -> MemoryBudget:
    """The bytes that `limits` say; where they say None, an eighth of the free memory.

    A derived cache is no larger than a full batch of the base's longest sequences, since its pages are taken at the
    start.
    """
    found = available_memory_bytes()
    free = _UNKNOWN_FREE_BYTES if found is None else found
    page = page_bytes(base.config, base.compute_dtype)
    most = limits.max_batch * pages_for(base.config.max_sequence_tokens) * page
    least = max(_LEAST_BYTES, pages_for(base.config.max_sequence_tokens) * page)
    share = int(free * _SHARE)
    return MemoryBudget(
        min(most, max(least, share)) if limits.kv_cache_bytes is None else limits.kv_cache_bytes,
        max(_LEAST_BYTES, share) if limits.adapter_bytes is None else limits.adapter_bytes,
    )
