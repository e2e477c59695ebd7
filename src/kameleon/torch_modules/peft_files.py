"""Side paths of any torch model in PEFT's files: adapter_config.json and adapter_model.safetensors in one folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kameleon.errors import LoraError
from kameleon.home import atomic_folder, read_text
from kameleon.torch_modules.attach import layers, put_on
from kameleon.torch_modules.fit import why_unfit
from kameleon.torch_modules.layers import LoraConv1D, LoraEmbedding
from kameleon.torch_modules.peft_settings import PeftSettings

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?:lora_(?P<linear>[AB])(?:\.default)?\.weight|lora_embedding_(?P<embedding>[AB])(?:\.default)?)"
)
_FROZEN = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.base_layer)?\.weight")


def save_peft(model: nn.Module, folder: str | Path) -> None:
    """Write every side path of `model` for PEFT, into a new folder.

    Raises LoraError when there is none, while they are merged, and for a convolution whose side path PEFT
    computes otherwise: grouped, dilated, or padded with anything but zeros.
    """
    found = dict(layers(model))
    if not found or any(layer.merged for layer in found.values()):
        raise LoraError("only side paths that are attached and not merged can be saved: attach, or unmerge, first")
    others = [f"{name} {why}" for name, layer in found.items() if (why := _why_another_change(layer.base))]
    if others:
        raise LoraError("; ".join(others[:5]))
    tensors: dict[str, Tensor] = {}
    for name, layer in found.items():
        a, b = layer.lora_a.detach(), layer.lora_b.detach()
        if isinstance(layer, LoraEmbedding):
            keys = ("lora_embedding_A", "lora_embedding_B")
        else:
            keys, b = ("lora_A.weight", "lora_B.weight"), b.view(*b.shape, *[1] * (a.dim() - 2))
        tensors |= {f"base_model.model.{name}.{key}": t.contiguous() for key, t in zip(keys, (a, b), strict=True)}
    ranks = {name: layer.rank for name, layer in found.items()}
    alphas = {name: layer.scaling * layer.rank for name, layer in found.items()}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "target_modules": "|".join(re.escape(name) for name in found),  # one expression: exactly these, no other ends
        **_common("r", "rank_pattern", ranks),
        **_common("lora_alpha", "alpha_pattern", alphas),
        "fan_in_fan_out": any(isinstance(layer, LoraConv1D) for layer in found.values()),
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_folder(Path(folder)) as fresh:
        (fresh / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / _TENSORS).write_bytes(save(tensors, {"format": "pt"}))


def _common(setting: str, pattern: str, values: Mapping[str, float]) -> dict[str, Any]:
    """One value where all are equal; else each by its whole name as an expression, longer ones first, since PEFT takes
    names' ends."""
    usual = Counter(values.values()).most_common(1)[0][0]
    names = sorted(values, key=len, reverse=True) if len(set(values.values())) > 1 else []
    return {setting: usual, pattern: {re.escape(name): values[name] for name in names}}


def load_peft(model: nn.Module, folder: str | Path, dropout: float = 0.0) -> nn.Module:
    """Attach what PEFT saved to a plain `model`, in place: every factor finds its layer, or nothing is attached.

    Frozen weights that PEFT saves beside an embedding's factors must be the model's own. Raises LoraError, with every
    fault, for settings that are not applied here, damaged files, and layers that are missing, unfit or of another size.
    """
    folder = Path(folder)
    settings = _read_settings(folder / _CONFIG)
    pairs, faults = _read_pairs(model, folder / _TENSORS)
    for name, pair in pairs.items():
        faults += _faults(model, name, pair) + _contradictions(settings, name, pair)
    if faults or not pairs:
        raise LoraError("; ".join(faults[:8]) or f"{folder / _TENSORS} holds no LoRA factors at all")
    put_on(model, {name: (len(pair["A"]), settings.scaling(name), dropout) for name, pair in pairs.items()})
    with torch.no_grad():
        for name, layer in layers(model):
            layer.lora_a.copy_(pairs[name]["A"])
            layer.lora_b.copy_(pairs[name]["B"].view(layer.lora_b.shape))
    return model


def _read_pairs(model: nn.Module, path: Path) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """A and B by module, and what else the file holds that is not the model's own."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{path} is missing or damaged: {error}") from error
    pairs: dict[str, dict[str, Tensor]] = {}
    faults = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match:
            pairs.setdefault(match["module"], {})[match["linear"] or match["embedding"]] = tensor
        elif not _is_the_models_own(model, key, tensor):
            faults.append(f"{key} is no factor of LoRA, and no weight of this model")
    return pairs, faults


def _read_settings(path: Path) -> PeftSettings:
    try:
        config = json.loads(read_text(path))
        if not isinstance(config, dict):
            raise ValueError(f"it holds a {type(config).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise LoraError(f"{path} is missing or no JSON object: {str(error)[:200]}") from error
    try:
        return PeftSettings(config)
    except LoraError as error:
        raise LoraError(f"{path}: {error}") from error


def _is_the_models_own(model: nn.Module, key: str, tensor: Tensor) -> bool:
    match = _FROZEN.fullmatch(key)
    own = dict(model.named_parameters(remove_duplicate=False)).get(f"{match['module']}.weight") if match else None
    return own is not None and own.shape == tensor.shape and torch.equal(own, tensor.to(own.dtype))


def _contradictions(settings: PeftSettings, name: str, pair: Mapping[str, Tensor]) -> list[str]:
    """Where the file holds other factors than the config says."""
    faults = []
    if "A" in pair and len(pair["A"]) != settings.rank(name):
        faults.append(f"{name} has rank {len(pair['A'])}, the config says rank {settings.rank(name):g}")
    if not settings.targets(name):
        faults.append(f"{name} has factors, and the config does not target it: PEFT would leave them out")
    return faults


def _faults(model: nn.Module, name: str, pair: Mapping[str, Tensor]) -> list[str]:
    if pair.keys() != {"A", "B"}:
        return [f"{name} has lora_{''.join(pair)} without its partner"]
    if name not in dict(model.named_modules(remove_duplicate=False)):
        return [f"{name} is no layer of this model"]
    unfit = why_unfit(model, name)
    if unfit:
        return [unfit]
    module, a, b = model.get_submodule(name), pair["A"], pair["B"]
    if not (a.is_floating_point() and b.is_floating_point() and a.isfinite().all() and b.isfinite().all()):
        return [f"{name} holds what is no finite number"]
    if why := _why_another_change(module):
        return [f"{name} {why}"]
    weight = module.weight
    assert isinstance(weight, Tensor)
    out_size, *rest = weight.shape
    if isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D":
        out_size, rest = rest[0], [out_size]  # their weights are stored the other way round
    wanted = ([a.shape[0], *rest], [out_size, a.shape[0], *[1] * (len(rest) - 1)])
    if [list(a.shape), list(b.shape)] != list(wanted) or not a.numel():
        return [f"{name} has A {list(a.shape)} and B {list(b.shape)}; here they would be {wanted[0]} and {wanted[1]}"]
    return []


def _why_another_change(module: nn.Module) -> str | None:
    """Why PEFT's side path of this layer is another change than ours; None if it is the same."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return None
    if module.groups != 1:
        return "is a grouped convolution, over whose groups PEFT runs A at once: another change, which W cannot hold"
    dilated = any(step > 1 and size > 1 for step, size in zip(module.dilation, module.kernel_size, strict=True))
    if dilated or (module.padding_mode != "zeros" and any(module._reversed_padding_repeated_twice)):
        return "is a convolution whose dilation or padding PEFT leaves out of A: merged, PEFT's change is another"
    return None
