"""Batch norm and its kin change their running statistics in every training pass, though no gradient tells them to.

A frozen model must not: what they gathered would be in no adapter file, and taking the side paths off would leave
another model behind. So while side paths are attached these layers compute as in evaluation.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def hold_statistics(model: nn.Module) -> None:
    """Let every layer that gathers running statistics normalise with those it has, in training too."""
    for module in model.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            module.register_forward_pre_hook(_evaluate)


def release_statistics(model: nn.Module) -> None:
    """Undo `hold_statistics`: the layers follow the model's mode again from its next `train()` on."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _evaluate:
                del module._forward_pre_hooks[key]


def _evaluate(module: nn.Module, _: object) -> None:
    # In the forward pass, because model.train() would undo what was set before it.
    module.eval()
