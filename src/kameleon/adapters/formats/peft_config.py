"""PEFT's adapter_config.json: the settings of an adapter, written, and read strictly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.card import Card, read_json, read_text
from kameleon.errors import AdapterFileError
from kameleon.settings import MOST_ALPHA, MOST_RANK
from kameleon.torch_modules.peft_files import HARMLESS
from kameleon.weights import ModuleName

CONFIG = "adapter_config.json"

# Settings that are refused unless they have one of these values; applied settings are not among them.
_HARMLESS = {key: fine for key, fine in HARMLESS.items() if key not in ("use_dora", "lora_bias", "modules_to_save")}
_HARMLESS |= {"bias": ("none", "lora_only", "all", None), "fan_in_fan_out": (False, None)}


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
        "base_model_name_or_path": adapter.card.base_id,
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


def parse_config(path: Path, text: bytes) -> dict[str, Any]:
    """The settings in an adapter_config.json. Raises AdapterFileError for what cannot be applied exactly."""
    config = read_json(text.decode(), str(path))
    if config.get("peft_type") != "LORA":
        raise AdapterFileError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA adapters can be read")
    refused = [f"{k} = {config[k]!r}" for k, fine in _HARMLESS.items() if k in config and config[k] not in fine]
    if refused:
        raise AdapterFileError(f"{path} asks for what is not applied here: {', '.join(refused)}")
    for key in ("r", "lora_alpha"):
        if not _is_number(config.get(key)) or not 0 < config[key] <= MOST_ALPHA:
            raise AdapterFileError(f"{path}: {key} is {config.get(key)!r}; expected a number above 0")
    whole = config.get("modules_to_save") or []
    if not isinstance(whole, list) or not all(isinstance(name, str) for name in whole):
        raise AdapterFileError(f"{path}: modules_to_save is {str(whole)[:40]!r}; expected a list of names")
    if config["r"] > MOST_RANK:
        raise AdapterFileError(f"{path}: r is {config['r']}; at most {MOST_RANK} is read")
    _check_patterns(path, config, "rank_pattern", most=MOST_RANK)
    _check_patterns(path, config, "alpha_pattern", most=MOST_ALPHA)
    return config


def _check_patterns(path: Path, config: Mapping[str, Any], kind: str, *, most: float) -> None:
    values = config.get(kind) or {}
    if not isinstance(values, dict):
        raise AdapterFileError(f"{path}: {kind} is {str(values)[:40]!r}; expected a number for each module")
    for key, value in values.items():
        if not _is_number(value) or not 0 < value <= most:
            raise AdapterFileError(f"{path}: {kind} gives {key[:80]!r} {str(value)[:40]}; at most {most} is read")
        _check_pattern(path, key)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_pattern(path: Path, key: str) -> None:
    """Keys are regular expressions to PEFT: refuse one that is malformed, or that could take for ever to match."""
    try:
        re.compile(key)
    except (re.error, RecursionError, OverflowError) as error:
        raise AdapterFileError(f"{path}: {key[:80]!r} is no regular expression: {error}") from error
    if len(key) > 1000 or re.search(r"\)\s*[*+{?]", key) or len(re.findall(r"[*+{]", key)) > 3:
        raise AdapterFileError(
            f"{path}: {key[:80]!r} repeats too much to be matched in sure time; name the modules plainly"
        )


def card_from(config: Mapping[str, Any]) -> Card:
    """The card of an adapter that has none: only the base that the config names."""
    base_id = config.get("base_model_name_or_path")
    return Card(base_id=base_id if isinstance(base_id, str) else None, created="", versions={})


def pattern_value(config: Mapping[str, Any], kind: str, module: str, default: Any) -> Any:
    """The value that PEFT's rank_pattern or alpha_pattern gives a module: the first key that ends its name."""
    for key, value in (config.get(kind) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
