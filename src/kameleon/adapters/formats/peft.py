"""Adapters in PEFT's own format: adapter_config.json and adapter_model.safetensors, with kameleon.json beside them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors
from kameleon.adapters.card import CARD_FILE, Card, read_card, read_json, read_text
from kameleon.adapters.formats.safetensors_views import ReadBuffer, raw_bytes, views
from kameleon.errors import AdapterFileError
from kameleon.home import atomic_folder
from kameleon.settings import MOST_ALPHA, MOST_RANK
from kameleon.torch_modules.peft_files import HARMLESS
from kameleon.weights import EMBEDDING, HEAD, ModuleName
from kameleon.words import first_few

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:(?!\.lora_).)+?)"
    r"(?:\.lora_(?:(?P<factor>[AB])(?:\.default)?\.weight|(?P<b_bias>B)(?:\.default)?\.bias"
    r"|embedding_(?P<embedding_factor>[AB])(?:\.default)?"
    r"|(?P<magnitude>magnitude_vector)(?:\.default)?(?:\.weight)?)"
    r"|(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(?:(?P<bias>bias)|(?P<instead>weight)))"
)
_match_key = lru_cache(maxsize=4096)(_KEY.fullmatch)  # adapters of one base have the same keys
_ENDS = (EMBEDDING, HEAD)
_EXTRA_KEYS = {"magnitude": "lora_magnitude_vector", "b_bias": "lora_B.bias"}

# What is refused by name; the settings that are applied are not among them.
_HARMLESS = {key: fine for key, fine in HARMLESS.items() if key not in ("use_dora", "lora_bias", "modules_to_save")}
_HARMLESS |= {"bias": ("none", "lora_only", "all", None), "fan_in_fan_out": (False, None)}


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write the three files so that `folder` is at every moment either as before or complete.

    Raises AdapterFileError when they cannot be written (disk full, read-only folder).
    """
    tensors: dict[str, Tensor] = {}
    for module, factors in adapter.modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = factors.b.contiguous()
        for field, tensor in factors.extras.items():
            tensors[f"base_model.model.{module}.{_EXTRA_KEYS[field]}"] = tensor.contiguous()
    for module, end in adapter.ends.items():
        tensors |= _end_tensors(module, end)
    for module, bias in adapter.biases.items():
        tensors[f"base_model.model.{module}.{'base_layer.' * (module in adapter.modules)}bias"] = bias.contiguous()
    files = {
        _CONFIG: json.dumps(_config(adapter), indent=2).encode() + b"\n",
        _TENSORS: save(tensors, {"format": "pt"}),
    }
    files[CARD_FILE] = adapter.card.to_json({name: _sha256(content) for name, content in files.items()}).encode()
    try:
        with atomic_folder(folder) as fresh:
            for name, content in files.items():
                (fresh / name).write_bytes(content)
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {folder}: {error}") from error


def _end_tensors(module: str, end: EndChange) -> dict[str, Tensor]:
    at, tensors = f"base_model.model.{module}", {}
    if end.instead is not None:
        tensors[f"{at}.{'base_layer.' * (end.factors is not None)}weight"] = end.instead.contiguous()
    if end.factors is not None:
        a, b = end.factors.a, end.factors.b
        if module == EMBEDDING:
            tensors |= {f"{at}.lora_embedding_A": b.T.contiguous(), f"{at}.lora_embedding_B": a.T.contiguous()}
        else:
            tensors |= {f"{at}.lora_A.weight": a.contiguous(), f"{at}.lora_B.weight": b.contiguous()}
    return tensors


def _config(adapter: Adapter) -> dict[str, Any]:
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
    """Short names when every layer from the first has them all, else full names: PEFT then touches nothing else."""
    names = [ModuleName.parse(name) for name in adapter.modules]
    short, layers = sorted({name.kind for name in names}), {name.layer for name in names}
    everywhere = len(adapter.modules) == len(short) * len(layers) and adapter.card.recipe.get("layers") == 0
    ends = [name for name, end in adapter.ends.items() if end.factors is not None]
    return (short if everywhere else sorted(adapter.modules)) + ends


def read_adapter(folder: Path, name: str | None = None) -> Adapter:
    """Read PEFT's files strictly; what would not be applied exactly is refused.

    Raises AdapterFileError for missing or damaged files, pickles (never opened), settings that are not applied here,
    factors without a partner, of a wrong rank, or with NaN or infinity.
    """
    with reading_adapter(folder, name=name) as adapter:
        return adapter


@contextmanager
def reading_adapter(folder: Path, buffer: ReadBuffer | None = None, name: str | None = None) -> Iterator[Adapter]:
    """What `read_adapter` does, with the hashes checked beside the block: after it the files are known to be whole.

    Hashing takes as long as all the rest of a load. With a `buffer` the adapter lasts until that is read into again.
    Raises what `read_adapter` does; damage above all else.
    """
    text = _read_config_text(folder)
    config = _parse_config(folder / _CONFIG, text)
    card, hashes = read_card(folder) or (_card_from(config), {})
    content = _read_tensors(folder, buffer or ReadBuffer())
    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(_check_hashes, folder, {_CONFIG: text, _TENSORS: raw_bytes(content)}, hashes)
        try:
            yield _parse_adapter(folder, folder.resolve().name if name is None else name, config, card, content)
        finally:
            checking.result()


def _parse_adapter(folder: Path, name: str, config: Mapping[str, Any], card: Card, content: Tensor) -> Adapter:
    """The adapter that the files hold. Raises AdapterFileError with what is wrong with them."""
    pairs = _pairs(folder / _TENSORS, content)
    modules, ends, faults = _changes(config, pairs)
    biases = {module: pair["bias"] for module, pair in pairs.items() if "bias" in pair}
    if biases and config.get("bias") not in ("lora_only", "all"):
        faults.append(f"it holds biases, and the config says bias = {config.get('bias')!r}")
    faults += [
        f"the bias of {m} is no row of finite numbers" for m, b in biases.items() if b.dim() != 1 or not _is_finite(b)
    ]
    if not modules and all(end.factors is None for end in ends.values()):
        faults.append("it holds no LoRA factors at all")
    if faults:
        raise AdapterFileError(f"{folder / _TENSORS}: {first_few(faults, 5, separator='; ')}")
    return Adapter(name, modules, card, biases, ends)


def _changes(
    config: Mapping[str, Any], pairs: Mapping[str, dict[str, Tensor]]
) -> tuple[dict[str, LoraFactors], dict[str, EndChange], list[str]]:
    """Factors of projections and what changes at the ends, by module, and what is wrong with them."""
    modules, ends, faults = {}, {}, []
    for module, pair in pairs.items():
        factors = None
        if pair.keys() - {"bias", "instead"}:
            if not {"A", "B"} <= pair.keys():
                faults.append(f"{module} has {', '.join(f'lora_{key}' for key in pair)} without its partner")
                continue
            rank = _pattern(config, "rank_pattern", module, config["r"])
            factors = LoraFactors(
                pair["A"],
                pair["B"],
                float(_pattern(config, "alpha_pattern", module, config["lora_alpha"])),
                bool(config.get("use_rslora")),
                *(pair.get(field) for field in _EXTRA_KEYS),
            )
            faults += _faults(module, factors, rank)
        if module in _ENDS:
            ends[module] = EndChange(pair.get("instead"), factors)
            faults += _end_faults(module, pair, ends[module])
        elif "instead" in pair:
            faults.append(f"{module} is replaced as a whole, which is applied for {' and '.join(_ENDS)} alone")
        elif factors is not None:
            faults += _unlike(config, module, factors)
            modules[module] = factors
    faults += [
        f"the config says modules_to_save = {name!r}, the file has it not"
        for name in config.get("modules_to_save") or ()
        if not any(f".{m}".endswith(f".{name}") and end.instead is not None for m, end in ends.items())
    ]
    return modules, ends, faults


def _read_config_text(folder: Path) -> bytes:
    path = folder / _CONFIG
    if not path.exists():
        raise AdapterFileError(f"{folder} is not an adapter: it has no {_CONFIG}")
    return read_text(path).encode()


def _parse_config(path: Path, text: bytes) -> dict[str, Any]:
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
    for pattern, most in (("rank_pattern", MOST_RANK), ("alpha_pattern", MOST_ALPHA)):
        values = config.get(pattern) or {}
        if not isinstance(values, dict):
            raise AdapterFileError(f"{path}: {pattern} is {str(values)[:40]!r}; expected a number for each module")
        for key, value in values.items():
            if not _is_number(value) or not 0 < value <= most:
                raise AdapterFileError(
                    f"{path}: {pattern} gives {key[:80]!r} {str(value)[:40]}; at most {most} is read"
                )
            _check_pattern(path, key)
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_pattern(path: Path, key: str) -> None:
    """PEFT takes these keys as regular expressions: refuse what is none, and what could take for ever to match."""
    try:
        re.compile(key)
    except (re.error, RecursionError, OverflowError) as error:
        raise AdapterFileError(f"{path}: {key[:80]!r} is no regular expression: {error}") from error
    if len(key) > 1000 or re.search(r"\)\s*[*+{?]", key) or len(re.findall(r"[*+{]", key)) > 3:
        raise AdapterFileError(
            f"{path}: {key[:80]!r} repeats too much to be matched in sure time; name the modules plainly"
        )


def _check_hashes(folder: Path, files: Mapping[str, bytes | memoryview], hashes: Mapping[str, str]) -> None:
    """The very bytes that are used, not the files again: they may be replaced at any time."""
    for name, content in files.items():
        if name in hashes and _sha256(content) != hashes[name]:
            raise AdapterFileError(
                f"{folder / name} is damaged or was changed: it is not the file that {CARD_FILE} was written for; "
                f"take a whole copy, or delete {CARD_FILE} to read it as an adapter of unknown origin"
            )


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _card_from(config: Mapping[str, Any]) -> Card:
    base_id = config.get("base_model_name_or_path")
    return Card(base_id=base_id if isinstance(base_id, str) else None, created="", versions={})


def _read_tensors(folder: Path, buffer: ReadBuffer) -> Tensor:
    path = folder / _TENSORS
    if not path.exists():
        parts = sorted(p.name for p in folder.glob("adapter_model*.safetensors"))
        pickled = sorted(p.name for p in folder.glob("adapter_model*") if p.suffix in (".bin", ".pt", ".pth"))
        hint = ""
        if parts:
            hint = f"; it has {', '.join(parts)}: save the tensors of all parts in one file of that name"
        elif pickled:
            hint = f"; {', '.join(pickled)}: pickles can run code and are never opened, save it as safetensors"
        raise AdapterFileError(f"{folder} has no {_TENSORS}{hint}")
    return buffer.read(path)


def _pairs(path: Path, content: Tensor) -> dict[str, dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _wide_tensors(path, content).items():
        match = _match_key(key)
        if match is None:
            raise AdapterFileError(f"{path}: {key!r} is not a LoRA factor of a linear layer; nothing was loaded")
        pair = pairs.setdefault(match["module"], {})
        what = match["factor"] or str(match.lastgroup)
        if match["embedding_factor"]:
            if match["module"] != EMBEDDING or tensor.dim() != 2:
                raise AdapterFileError(f"{path}: {key!r} is no matrix for {EMBEDDING}; nothing was loaded")
            what, tensor = {"A": "B", "B": "A"}[match["embedding_factor"]], tensor.T
        if what in pair:
            raise AdapterFileError(f"{path} holds lora_{what} of {match['module']} twice")
        pair[what] = tensor
    return pairs


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of an untrusted safetensors file, in fp32. Raises AdapterFileError."""
    return _wide_tensors(path, ReadBuffer().read(path))


def _wide_tensors(path: Path, content: Tensor) -> dict[str, Tensor]:
    return {key: tensor.to(torch.float32) for key, tensor in views(path, content).items()}


def _pattern(config: Mapping[str, Any], kind: str, module: str, default: Any) -> Any:
    """The value that PEFT's rank_pattern or alpha_pattern gives a module: the first key that ends its name."""
    for key, value in (config.get(kind) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _faults(module: str, factors: LoraFactors, rank: int) -> list[str]:
    a, b = factors.a, factors.b
    if a.dim() != 2 or b.dim() != 2 or 0 in (*a.shape, *b.shape) or a.shape[0] != rank or b.shape[1] != rank:
        return [f"{module} has A {list(a.shape)} and B {list(b.shape)}, the config says rank {rank}"]
    odd = [f"{module} has {name} {list(t.shape)}" for name, t in factors.extras.items() if t.shape != b.shape[:1]]
    if odd:
        return odd
    if not all(map(_is_finite, factors.tensors)):
        return [f"{module} holds NaN or infinity"]
    return []


def _end_faults(module: str, pair: Mapping[str, Tensor], end: EndChange) -> list[str]:
    faults = [f"{module} has a {what}, which is not applied there" for what in ("bias", *_EXTRA_KEYS) if what in pair]
    if end.instead is not None and (end.instead.dim() != 2 or not _is_finite(end.instead)):
        faults.append(f"what replaces {module} is no matrix of finite numbers")
    return faults


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are: one NaN or infinity makes the sum another, so most of the time one pass tells."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def _unlike(config: Mapping[str, Any], module: str, factors: LoraFactors) -> list[str]:
    """Where the config and a module's tensors do not say the same."""
    said = bool(config.get("use_dora")), bool(config.get("lora_bias"))
    has = factors.magnitude is not None, factors.b_bias is not None
    if said == has:
        return []
    both = zip(("use_dora", "lora_bias"), said, has, strict=True)
    return [f"{module}: the config says {k} = {s}, the file has it not so" for k, s, h in both if s != h]
