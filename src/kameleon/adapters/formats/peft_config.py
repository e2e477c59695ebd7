"""PEFT's adapter_config.json: the settings of an adapter, written, and read strictly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.card import Card, known_of_base, read_json, read_text
from kameleon.errors import AdapterFileError, LoraError
from kameleon.settings import MOST_ALPHA, MOST_RANK
from kameleon.torch_modules.peft_settings import PeftSettings
from kameleon.weights import ModuleName

CONFIG = "adapter_config.json"
_APPLIED = ("use_dora", "lora_bias", "modules_to_save", "bias")
"""Settings beside those of `PeftSettings` that are applied here."""
_BIASES = ("none", "lora_only", "all", None)


def config_of(adapter: Adapter) -> dict[str, Any]:
    """PEFT's settings for the adapter. Raises AdapterFileError for one that its format cannot hold."""
    modules = adapter.factors
    if not modules:
        raise AdapterFileError(f"adapter {adapter.name!r} has no LoRA factors; PEFT's format needs some")
    ranks = Counter(f.rank for f in modules.values())
    if max(ranks) > MOST_RANK:
        raise AdapterFileError(
            f"adapter {adapter.name!r} has rank {max(ranks)}; at most {MOST_RANK} could be read again"
        )
    alphas = Counter(f.alpha for f in modules.values())
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    kinds = {(f.rslora, f.magnitude is not None, f.b_bias is not None) for f in modules.values()}
    if len(kinds) != 1:
        raise AdapterFileError(
            f"adapter {adapter.name!r} mixes modules with and without rsLoRA, DoRA or biases of B; PEFT's format has "
            "one for all"
        )
    rslora, dora, b_bias = kinds.pop()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.card.base_hub_id,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {m: f.rank for m, f in modules.items() if f.rank != rank},
        "alpha_pattern": {m: f.alpha for m, f in modules.items() if f.alpha != alpha},
        "use_rslora": rslora,
        "use_dora": dora,
        "lora_bias": b_bias,
        "target_modules": _targets(adapter),
        "modules_to_save": [name for name, end in adapter.ends.items() if end.factors is None] or None,
        "lora_dropout": 0.0,
        "bias": _bias_mode(adapter),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _bias_mode(adapter: Adapter) -> str:
    if not adapter.biases:
        return "none"
    return "lora_only" if adapter.biases.keys() <= adapter.modules.keys() else "all"


def _targets(adapter: Adapter) -> list[str]:
    """Short names when every layer has them all, else full names, so that PEFT touches nothing else."""
    names = [ModuleName.parse(name) for name in adapter.modules]
    short, layers = sorted({name.kind for name in names}), {name.layer for name in names}
    everywhere = len(adapter.modules) == len(short) * len(layers) and adapter.card.recipe.get("layers") == 0
    ends = [name for name, end in adapter.ends.items() if end.factors is not None]
    return (short if everywhere else sorted(adapter.modules)) + ends


def read_config_text(folder: Path) -> bytes:
    """The bytes of the folder's adapter_config.json. Raises AdapterFileError where there is none."""
    path = folder / CONFIG
    if not path.exists():
        raise AdapterFileError(f"{folder} is not an adapter: it has no {CONFIG}")
    return read_text(path).encode()


def parse_config(path: Path, text: bytes) -> tuple[dict[str, Any], PeftSettings]:
    """The settings in an adapter_config.json, and what they say about each module.

    Raises AdapterFileError for what cannot be applied exactly.
    """
    config = read_json(text.decode(), str(path))
    try:
        settings = PeftSettings(config, applied=_APPLIED)
    except LoraError as error:
        raise AdapterFileError(f"{path}: {error}") from error
    if config.get("bias") not in _BIASES:
        raise AdapterFileError(f"{path}: bias is {str(config['bias'])[:40]!r}; expected one of {_BIASES}")
    whole = config.get("modules_to_save")
    if isinstance(whole, str):
        raise AdapterFileError(f"{path}: modules_to_save is {whole[:40]!r}; expected a list of names")
    for key, pattern, most in (("r", "rank_pattern", MOST_RANK), ("lora_alpha", "alpha_pattern", MOST_ALPHA)):
        for name, number in {key: config[key], **(config.get(pattern) or {})}.items():
            if number > most:
                raise AdapterFileError(f"{path}: {name[:80]} is {number}; at most {most} is read")
    return config, settings


def card_from(config: Mapping[str, Any]) -> Card:
    """The card of an adapter that has none: only the base that the config names."""
    base_id = config.get("base_model_name_or_path")
    base_id = base_id if isinstance(base_id, str) else None
    hub_id, licence = known_of_base(base_id)
    return Card(base_id=base_id, created="", versions={}, base_hub_id=hub_id, base_licence=licence)
