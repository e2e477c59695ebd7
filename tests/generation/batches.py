"""Batches over a loaded base, for tests of generation."""

import itertools

import torch

from kameleon.generation import Batch, page_bytes

_IDS = itertools.count(1)


def batch_of(loaded, pages=64, **limits):
    """A batch with room for so many pages."""
    page = page_bytes(loaded.base.config, torch.float32)
    return Batch(loaded.base, loaded.bank, kv_cache_bytes=pages * page, **limits)


def add(batch, request, slot, **how):
    """Add a request under a fresh id, which is returned."""
    request_id = next(_IDS)
    batch.add(request, slot, request_id=request_id, **how)
    return request_id


def run(batch):
    """Step until all requests are done; their completions by id."""
    done = {}
    while not batch.idle:
        done |= {p.request: p.completion for p in batch.step() if p.completion is not None}
    return done
