"""Adapters in PEFT's own format: adapter_config.json and adapter_model.safetensors, with kameleon.json beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.card import Card
from kameleon.errors import AdapterFileError

_CONFIG, _TENSORS, _CARD = "adapter_config.json", "adapter_model.safetensors", "kameleon.json"
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
_MOST_RANK = 4096  # beyond any use; a config that says more is damaged or hostile

# Settings of a LoRA config that change what is computed in ways that are not applied here, and their harmless values.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
}


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the three files so that `folder` is at every moment either as before or complete.

    Raises AdapterFileError when they cannot be written (disk full, read-only folder).
    """
    tensors: dict[str, Tensor] = {}
    for module, factors in adapter.modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = factors.b.contiguous()
    files = {
        _CONFIG: json.dumps(_config(adapter), indent=2).encode() + b"\n",
        _TENSORS: save(tensors, {"format": "pt"}),
        _CARD: adapter.card.to_json().encode(),
    }
    try:
        _replace_folder(folder, files)
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {folder}: {error}") from error


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    old = fresh.with_name(f"{fresh.name}.old")
    try:
        fresh.chmod(0o755)
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _config(adapter: Adapter) -> dict[str, Any]:
    ranks = Counter(f.rank for f in adapter.modules.values())
    alphas = Counter(f.alpha for f in adapter.modules.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    kinds = {f.rslora for f in adapter.modules.values()}
    if len(kinds) != 1:
        raise AdapterFileError(
            f"adapter {adapter.name!r} mixes rsLoRA and plain scaling; PEFT's format has one for all"
        )
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.card.base_id,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {m: f.rank for m, f in adapter.modules.items() if f.rank != rank},
        "alpha_pattern": {m: f.alpha for m, f in adapter.modules.items() if f.alpha != alpha},
        "use_rslora": kinds.pop(),
        "target_modules": _targets(adapter),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _targets(adapter: Adapter) -> list[str]:
    """Short names when every layer from the first has them all, else full names: PEFT then touches nothing else."""
    short = sorted({name.rsplit(".", 1)[1] for name in adapter.modules})
    layers = {name.split(".")[2] for name in adapter.modules}
    everywhere = len(adapter.modules) == len(short) * len(layers) and adapter.card.recipe.get("layers") == 0
    return short if everywhere else sorted(adapter.modules)


def read_adapter(folder: Path) -> Adapter:
    """Read PEFT's files strictly; what would not be applied exactly is refused.

    Raises AdapterFileError for missing or damaged files, pickles (never opened), settings that are not applied here,
    factors without a partner, of a wrong rank, or with NaN or infinity.
    """
    config = _read_config(folder)
    card_path = folder / _CARD
    card = Card.from_json(card_path.read_text(encoding="utf-8")) if card_path.exists() else _card_from(config)
    pairs = _read_pairs(folder)
    modules, faults = {}, []
    for module, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            faults.append(f"{module} has lora_{''.join(pair)} without its partner")
            continue
        factors = LoraFactors(
            pair["A"],
            pair["B"],
            float(_pattern(config, "alpha_pattern", module, config["lora_alpha"])),
            bool(config.get("use_rslora")),
        )
        faults += _faults(module, factors, _pattern(config, "rank_pattern", module, config["r"]))
        modules[module] = factors
    if not pairs:
        faults.append("it holds no LoRA factors at all")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise AdapterFileError(f"{folder / _TENSORS}: {'; '.join(faults[:5])}{more}")
    return Adapter(folder.name, modules, card)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.exists():
        raise AdapterFileError(f"{folder} is not an adapter: it has no {_CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterFileError(f"{path}: peft_type is {kind!r}; only LORA adapters can be read")
    refused = [f"{k} = {config[k]!r}" for k, fine in _HARMLESS.items() if k in config and config[k] not in fine]
    if refused:
        raise AdapterFileError(f"{path} asks for what is not applied here: {', '.join(refused)}")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or not 0 < config[key] <= _MOST_RANK**2:
            raise AdapterFileError(f"{path}: {key} is {config.get(key)!r}; expected a number above 0")
    if config["r"] > _MOST_RANK:
        raise AdapterFileError(f"{path}: r is {config['r']}; at most {_MOST_RANK} is read")
    return config


def _card_from(config: Mapping[str, Any]) -> Card:
    return Card(base_id=config.get("base_model_name_or_path"), created="", versions={})


def _read_pairs(folder: Path) -> dict[str, dict[str, Tensor]]:
    path = folder / _TENSORS
    if not path.exists():
        pickled = next((p.name for p in folder.glob("adapter_model.*") if p.suffix in (".bin", ".pt", ".pth")), None)
        hint = (
            f"; {pickled} is a pickle, which can run code and is never opened: save it as safetensors"
            if pickled
            else ""
        )
        raise AdapterFileError(f"{folder} has no {_TENSORS}{hint}")
    pairs: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                match = _KEY.fullmatch(key)
                if match is None:
                    raise AdapterFileError(
                        f"{path}: {key!r} is not a LoRA factor of a linear layer; nothing was loaded"
                    )
                pairs.setdefault(match["module"], {})[match["factor"]] = file.get_tensor(key).to(torch.float32)
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is damaged or cut short: {error}") from error
    return pairs


def _pattern(config: Mapping[str, Any], kind: str, module: str, default: Any) -> Any:
    """The value that PEFT's rank_pattern or alpha_pattern gives a module: the first key that ends its name."""
    for key, value in (config.get(kind) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _faults(module: str, factors: LoraFactors, rank: int) -> list[str]:
    a, b = factors.a, factors.b
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
        return [f"{module} has A {list(a.shape)} and B {list(b.shape)}, the config says rank {rank}"]
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return [f"{module} holds NaN or infinity"]
    return []
