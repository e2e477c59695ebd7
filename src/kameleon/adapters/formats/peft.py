"""Adapters in PEFT's own format: adapter_config.json and adapter_model.safetensors, with the card and README.md."""

from __future__ import annotations

import hashlib
import json
import math
import re
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
from kameleon.adapters.card import CARD_FILE, Card, read_card
from kameleon.adapters.formats.model_card import adapter_readme, write_readme
from kameleon.adapters.formats.peft_config import (
    CONFIG,
    card_from,
    config_of,
    parse_config,
    read_config_text,
)
from kameleon.adapters.formats.safetensors_views import ReadBuffer, raw_bytes, views
from kameleon.arguments import checked
from kameleon.errors import AdapterFileError, LoraError
from kameleon.home import atomic_folder
from kameleon.torch_modules.peft_settings import PeftSettings
from kameleon.weights import EMBEDDING, HEAD
from kameleon.words import first_few

_TENSORS = "adapter_model.safetensors"
# model.layers.0.self_attn.q_proj.lora_A.weight  ….lora_B.default.weight  ….lora_B.bias
# model.embed_tokens.lora_embedding_A            ….q_proj.lora_magnitude_vector
# ….q_proj.base_layer.bias                       lm_head.modules_to_save.weight    lm_head.original_module.weight
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:(?!\.lora_).)+?)"
    r"(?:\.lora_(?:(?P<factor>[AB])(?:\.default)?\.weight|(?P<b_bias>B)(?:\.default)?\.bias"
    r"|embedding_(?P<embedding_factor>[AB])(?:\.default)?"
    r"|(?P<magnitude>magnitude_vector)(?:\.default)?(?:\.weight)?)"
    r"|(?P<original>\.original_module\.weight)"
    r"|(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(?:(?P<bias>bias)|(?P<instead>weight)))"
)
_match_key = lru_cache(maxsize=4096)(_KEY.fullmatch)  # adapters of one base have the same keys
_ENDS = (EMBEDDING, HEAD)
_EXTRA_KEYS = {"magnitude": "lora_magnitude_vector", "b_bias": "lora_B.bias"}


@checked()
def write_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write PEFT's two files, the card and README.md; `folder` is at every moment either as before or complete.

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
        CONFIG: json.dumps(config_of(adapter), indent=2).encode() + b"\n",
        _TENSORS: save(tensors, {"format": "pt"}),
    }
    files[CARD_FILE] = adapter.card.to_json({name: _sha256(content) for name, content in files.items()}).encode()
    try:
        with atomic_folder(Path(folder)) as fresh:
            for name, content in files.items():
                (fresh / name).write_bytes(content)
            write_readme(adapter_readme(adapter, "peft"), fresh)
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


@checked()
def read_adapter(folder: str | Path, *, name: str | None = None) -> Adapter:
    """The adapter in a folder of PEFT's files, with or without a card; what cannot be applied exactly is refused.

    Its name is that of the folder unless `name` is given.

    Raises AdapterFileError for missing or damaged files, pickles (never opened), settings that are not applied here,
    factors without a partner, of a wrong rank, or with NaN or infinity.
    """
    with reading_adapter(Path(folder), name=name) as adapter:
        return adapter


@contextmanager
def reading_adapter(folder: Path, buffer: ReadBuffer | None = None, *, name: str | None = None) -> Iterator[Adapter]:
    """Yield the adapter while another thread verifies the hashes, which takes as long as the rest of a load.

    On exit a mismatch raises AdapterFileError in place of any other error. With a `buffer` the adapter lasts until the
    buffer is read into again. Raises as `read_adapter` does.
    """
    text = read_config_text(folder)
    config, settings = parse_config(folder / CONFIG, text)
    card, hashes = read_card(folder) or (card_from(config), {})
    content = _read_tensors(folder, buffer or ReadBuffer())
    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(_check_hashes, folder, {CONFIG: text, _TENSORS: raw_bytes(content)}, hashes)
        try:
            known_as = folder.resolve().name if name is None else name
            yield _parse_adapter(folder, known_as, config, settings, card, content)
        finally:
            checking.result()


def _parse_adapter(
    folder: Path, name: str, config: Mapping[str, Any], settings: PeftSettings, card: Card, content: Tensor
) -> Adapter:
    """The adapter that the files hold. Raises AdapterFileError with what is wrong with them."""
    pairs = _pairs(folder / _TENSORS, content)
    try:
        modules, ends, faults = _changes(config, settings, pairs)
    except LoraError as error:
        raise AdapterFileError(f"{folder / CONFIG}: {error}") from error
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
    config: Mapping[str, Any], settings: PeftSettings, pairs: Mapping[str, dict[str, Tensor]]
) -> tuple[dict[str, LoraFactors], dict[str, EndChange], list[str]]:
    """Factors of projections and what changes at the ends, by module, and what is wrong with them."""
    modules, ends, faults = {}, {}, []
    for module, pair in pairs.items():
        factors = None
        if pair.keys() - {"bias", "instead"}:
            if not {"A", "B"} <= pair.keys():
                faults.append(f"{module} has {', '.join(f'lora_{key}' for key in pair)} without its partner")
                continue
            factors = LoraFactors(
                pair["A"],
                pair["B"],
                float(settings.alpha(module)),
                bool(config.get("use_rslora")),
                *(pair.get(field) for field in _EXTRA_KEYS),
            )
            faults += _faults(module, factors, settings.rank(module))
            if not settings.targets(module):
                faults.append(f"{module} has factors, and the config does not target it: PEFT would leave them out")
        if module in _ENDS:
            ends[module] = EndChange(pair.get("instead"), factors)
            faults += _end_faults(module, pair, ends[module])
        elif "instead" in pair:
            faults.append(f"{module} is replaced as a whole, which is applied for {' and '.join(_ENDS)} alone")
        elif factors is not None:
            faults += _unlike(config, module, factors)
            modules[module] = factors
    faults += [
        f"the config says modules_to_save = {name!r}, but the file has no such tensor"
        for name in config.get("modules_to_save") or ()
        if not any(f".{m}".endswith(f".{name}") and end.instead is not None for m, end in ends.items())
    ]
    return modules, ends, faults


def _check_hashes(folder: Path, files: Mapping[str, bytes | memoryview], hashes: Mapping[str, str]) -> None:
    """Compare the bytes that are used, not the files read again: a file may be replaced at any time."""
    for name, content in files.items():
        if name in hashes and _sha256(content) != hashes[name]:
            raise AdapterFileError(
                f"{folder / name} is damaged or was changed: it is not the file that {CARD_FILE} was written for; "
                f"take a whole copy, or delete {CARD_FILE} to read it as an adapter of unknown origin"
            )


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


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
        if match["original"]:
            continue  # the base's own matrix, which PEFT keeps for when the adapter is off
        pair = pairs.setdefault(match["module"], {})
        what = match["factor"] or str(match.lastgroup)
        if match["embedding_factor"]:
            if match["module"] != EMBEDDING or tensor.dim() != 2:
                raise AdapterFileError(f"{path}: {key!r} is no matrix for {EMBEDDING}; nothing was loaded")
            what, tensor = {"A": "B", "B": "A"}[match["embedding_factor"]], tensor.T
        if what not in pair:
            pair[what] = tensor
        elif what != "instead":
            raise AdapterFileError(f"{path} holds lora_{what} of {match['module']} twice")
        elif not torch.equal(pair[what], tensor):  # with save_embedding_layers PEFT writes one under two names
            raise AdapterFileError(f"{path} holds two matrices instead of {match['module']}, and they differ")
    return pairs


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of an untrusted safetensors file, in fp32. Raises AdapterFileError."""
    return _wide_tensors(path, ReadBuffer().read(path))


def _wide_tensors(path: Path, content: Tensor) -> dict[str, Tensor]:
    return {key: tensor.to(torch.float32) for key, tensor in views(path, content).items()}


def _faults(module: str, factors: LoraFactors, rank: float) -> list[str]:
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
    """Whether all numbers are finite. One NaN or infinity makes the sum one too, so one pass is usually enough."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def _unlike(config: Mapping[str, Any], module: str, factors: LoraFactors) -> list[str]:
    """Where the config and a module's tensors contradict each other."""
    said = bool(config.get("use_dora")), bool(config.get("lora_bias"))
    has = factors.magnitude is not None, factors.b_bias is not None
    if said == has:
        return []
    both = zip(("use_dora", "lora_bias"), said, has, strict=True)
    tensors = {"use_dora": "magnitude", "lora_bias": "bias of B"}
    return [
        f"{module}: the config says {k} = {s}, but the file has {'a' if h else 'no'} {tensors[k]}"
        for k, s, h in both
        if s != h
    ]
