"""Adapters with random numbers, for any base."""

import torch

from kameleon.adapters import Adapter, Card, LoraFactors
from kameleon.model import module_shapes


def random_adapter(base, name, seed=0, rank=4, alpha=8.0):
    """Every projection adapted, large enough to change what the base says."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        module: LoraFactors(
            torch.randn(rank, in_size, generator=generator) * 0.3,
            torch.randn(out_size, rank, generator=generator) * 0.1,
            alpha,
        )
        for module, (out_size, in_size) in module_shapes(base.config).items()
    }
    return Adapter(name, modules, Card(base_id=base.name, base_fingerprint=base.fingerprint, versions={}))
