"""How much memory a server takes where its limits leave it open."""

from __future__ import annotations

from dataclasses import replace

from kameleon.bases import Base
from kameleon.generation import page_bytes, pages_for
from kameleon.machine import available_memory_bytes
from kameleon.settings import Limits

_SHARE = 1 / 8  # of what is free: for each of two, and most of it stays for other programs
_LEAST_BYTES = 64 << 20
_UNKNOWN_FREE_BYTES = 1 << 30  # taken for free where the system does not tell


def derive(limits: Limits, base: Base) -> Limits:
    """`limits` with every 0 replaced: an eighth of the free memory each, and for the cache no more than a full batch of
    the base's longest sequences could use, since pages are taken at the start."""
    found = available_memory_bytes()
    free = _UNKNOWN_FREE_BYTES if found is None else found
    page = page_bytes(base.config, base.compute_dtype)
    most = limits.max_batch * pages_for(base.config.max_sequence_tokens) * page
    least = max(_LEAST_BYTES, pages_for(base.config.max_sequence_tokens) * page)
    return replace(
        limits,
        kv_cache_bytes=limits.kv_cache_bytes or min(most, max(least, int(free * _SHARE))),
        adapter_bytes=limits.adapter_bytes or max(_LEAST_BYTES, int(free * _SHARE)),
    )
