"""Adapters in mlx-lm's format: adapter_config.json and adapters.safetensors in one folder.

Factors are stored as they are multiplied there, `lora_a` [in, rank] and `lora_b` [rank, out], with `m` [out] for DoRA;
the config has one rank and one scale for all modules, in the upper `num_layers` layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.card import Card, read_json, read_text
from kameleon.adapters.fit import check_fit
from kameleon.adapters.formats.model_card import adapter_readme, write_readme
from kameleon.adapters.formats.peft import read_tensors
from kameleon.bases import Base
from kameleon.errors import AdapterError, AdapterFileError
from kameleon.home import atomic_folder
from kameleon.weights import EMBEDDING, HEAD, ModuleName

_CONFIG, _TENSORS = "adapter_config.json", "adapters.safetensors"
_KINDS = {"lora": {"lora_a", "lora_b"}, "dora": {"lora_a", "lora_b", "m"}}


def is_mlx_adapter(folder: Path) -> bool:
    """Whether a folder looks like mlx-lm's."""
    return (folder / _TENSORS).exists()


def write_mlx_adapter(adapter: Adapter, base: Base, folder: Path) -> None:
    """Write an adapter of `base` for mlx-lm, in fp32, into a new folder.

    Modules of a smaller rank are filled up with zeros; where scales differ, B is multiplied by the difference.
    Raises AdapterMismatchError for an adapter that does not fit, AdapterError for a variant that mlx-lm does not know,
    AdapterFileError when it cannot be written.
    """
    check_fit(base, adapter)
    kinds = {"lora" if f.magnitude is None else "dora" for f in adapter.modules.values()}
    biased = adapter.biases or any(f.b_bias is not None for f in adapter.modules.values())
    if len(kinds) > 1 or biased or adapter.ends:
        raise AdapterError(
            f"adapter {adapter.name!r} has {', '.join(adapter.variants)}; mlx-lm knows LoRA or DoRA for all modules, "
            "no biases, and no other embedding or head"
        )
    modules = adapter.modules
    rank, scale = max(f.rank for f in modules.values()), next(iter(modules.values())).scaling
    tensors: dict[str, Tensor] = {}
    for module, f in modules.items():
        more = rank - f.rank
        tensors[f"{module}.lora_a"] = pad(f.a, (0, 0, 0, more)).T.contiguous()
        tensors[f"{module}.lora_b"] = pad(f.b * (f.scaling / scale), (0, more)).T.contiguous()
        if f.magnitude is not None:
            tensors[f"{module}.m"] = f.magnitude.contiguous()
    names = [ModuleName.parse(module) for module in modules]
    config = {
        "model": adapter.card.base_hub_id,
        "fine_tune_type": kinds.pop(),
        "num_layers": base.config.num_layers - min(name.layer for name in names),
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted({name.member for name in names}),
        },
    }
    try:
        with atomic_folder(folder) as fresh:
            (fresh / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (fresh / _TENSORS).write_bytes(save(tensors, {"format": "mlx"}))
            write_readme(adapter_readme(adapter, "mlx"), fresh)
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {folder}: {error}") from error


def read_mlx_adapter(folder: Path, name: str) -> Adapter:
    """An adapter that mlx-lm trained; its card says nothing of where it comes from.

    Raises AdapterFileError for a damaged file, a full fine-tune, factors of the embedding or the head, a config without
    a scale (the adapter would be applied with another strength), or tensors that are not what the config says.
    """
    path = folder / _CONFIG
    config = read_json(read_text(path), str(path))
    kind = config.get("fine_tune_type", "lora")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise AdapterFileError(f"{path}: fine_tune_type is {str(kind)[:40]!r}; lora and dora can be read")
    settings = config.get("lora_parameters")
    rank, scale = (settings.get(key) if isinstance(settings, dict) else None for key in ("rank", "scale"))
    if not _is_positive(rank) or not _is_positive(scale):
        raise AdapterFileError(f"{path} gives rank {rank!r} and scale {scale!r}; both must be numbers above 0")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder / _TENSORS).items():
        module, _, what = key.rpartition(".")
        found.setdefault(module, {})[what] = tensor
    modules = {}
    ends = [module for module in found if module.endswith((EMBEDDING, HEAD)) and "lora_a" in found[module]]
    if ends:
        raise AdapterFileError(
            f"{folder / _TENSORS} changes {' and '.join(ends)}, which is read from PEFT's files alone (in mlx-lm an "
            "embedding's LoRA changes a tied head too): train it without the embedding and the head among its keys"
        )
    for module, parts in found.items():
        if parts.keys() != _KINDS[kind]:
            raise AdapterFileError(
                f"{folder / _TENSORS}: {module} has {', '.join(sorted(parts))}; {kind} has {', '.join(_KINDS[kind])}"
            )
        a, b, m = parts["lora_a"], parts["lora_b"], parts.get("m")
        fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] == rank and (m is None or m.shape == b.shape[1:])
        if not fits:
            raise AdapterFileError(
                f"{folder / _TENSORS}: {module} has {[list(t.shape) for t in parts.values()]}, the config rank {rank}"
            )
        if not all(torch.isfinite(tensor).all() for tensor in parts.values()):
            raise AdapterFileError(f"{folder / _TENSORS}: {module} holds NaN or infinity")
        modules[module] = LoraFactors(a.T.contiguous(), b.T.contiguous(), float(scale * rank), magnitude=m)
    if not modules:
        raise AdapterFileError(f"{folder / _TENSORS} holds no LoRA factors at all")
    return Adapter(name, modules, Card(base_id=None, created="", versions={}))


def _is_positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
