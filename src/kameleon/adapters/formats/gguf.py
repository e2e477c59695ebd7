"""Adapters in llama.cpp's format: one `.gguf` file with lora_a and lora_b of each weight.

Its names are llama.cpp's, `blk.3.attn_q.weight.lora_a` [rank, in] and `.lora_b` [out, rank]; one alpha holds for all,
and each module's scale is alpha / rank. Bases of the architecture "llama" have q and k rows in another order there
(`weights.gguf_layout`), and so has their lora_b.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gguf
import torch
from gguf.gguf_writer import WriterState
from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.card import Card
from kameleon.adapters.fit import check_fit
from kameleon.bases import Base
from kameleon.errors import AdapterFileError, AdapterMismatchError, WeightsError
from kameleon.home import atomic_write
from kameleon.model import families, module_shapes
from kameleon.weights.gguf_header import GgufHeader, read_header
from kameleon.weights.gguf_layout import GgufLayout, pair_rows, part_rows
from kameleon.weights.kinds import FLOATS
from kameleon.weights.tensor_info import TensorInfo

_MOST_BYTES = 4 << 30


def write_gguf_adapter(adapter: Adapter, base: Base, path: Path) -> None:
    """Write an adapter of `base` for llama.cpp, in fp32.

    Raises AdapterMismatchError for one that does not fit, AdapterError for a variant that is not A and B alone,
    AdapterFileError when it cannot be written.
    Where modules differ in alpha, or with rsLoRA, B is multiplied by the difference.
    """
    check_fit(base, adapter)
    adapter.require_plain("llama.cpp's format")
    layout = _layout(base)
    alpha = Counter(f.scaling * f.rank for f in adapter.modules.values()).most_common(1)[0][0]
    try:
        with atomic_write(path) as file:
            writer = gguf.GGUFWriter(None, layout.architecture)
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_name(adapter.name)
            if adapter.card.base_hub_id:
                writer.add_base_model_count(1)
                writer.add_base_model_repo_url(0, f"https://huggingface.co/{adapter.card.base_hub_id}")
            if adapter.card.base_licence:
                writer.add_license(adapter.card.base_licence)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
            for module, f in adapter.modules.items():
                name = f"{layout.stored_name(f'{module}.weight')}.lora_"
                share = f.scaling * f.rank / alpha
                writer.add_tensor(f"{name}a", f.a.contiguous().numpy())
                writer.add_tensor(f"{name}b", pair_rows(f.b * share, _half(base, module)).contiguous().numpy())
            # A file of ours, which takes the old one's place whole, instead of one that the writer opens.
            writer.fout, writer.state = [file], WriterState.EMPTY  # pyright: ignore[reportAttributeAccessIssue]
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {path}: {error}") from error


def read_gguf_adapter(path: Path, base: Base, name: str) -> Adapter:
    """An adapter of `base` that llama.cpp's tools wrote; its card says nothing of where it comes from.

    Raises AdapterFileError for a damaged file or one that is no LoRA adapter, AdapterMismatchError for another
    architecture than the base's.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise AdapterFileError(f"{path} has {size:,} bytes; at most {_MOST_BYTES:,} are read")
        data = path.read_bytes()
        header = read_header(memoryview(data))
    except (OSError, WeightsError) as error:
        raise AdapterFileError(f"{path} is not a whole GGUF file: {error}") from error
    layout = _layout(base)
    alpha = _checked_alpha(path, header, layout)
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        weight, _, factor = tensor.name.rpartition(".lora_")
        module = layout.hf_name(weight).removesuffix(".weight")
        if factor not in ("a", "b") or module not in module_shapes(base.config):
            raise AdapterFileError(f"{path}: {tensor.name} is no LoRA factor of a projection of {base.name}")
        pair = found.setdefault(module, {})
        if factor in pair:
            raise AdapterFileError(f"{path} holds factor {factor} of {module} twice, under two names")
        pair[factor] = _numbers(path, data, tensor)
    modules = {}
    for module, pair in found.items():
        if pair.keys() != {"a", "b"} or pair["a"].dim() != 2 or pair["b"].shape[1:] != pair["a"].shape[:1]:
            raise AdapterFileError(f"{path}: the factors of {module} are no pair A [rank, in], B [out, rank]")
        if len(pair["b"]) != module_shapes(base.config)[module][0]:
            raise AdapterMismatchError(f"{path}: {module} has {len(pair['b'])} outputs, unlike {base.name}")
        b = part_rows(pair["b"], _half(base, module)).contiguous()
        modules[module] = LoraFactors(pair["a"], b, alpha or float(len(pair["a"])))
    if not modules:
        raise AdapterFileError(f"{path} holds no LoRA factors at all")
    return Adapter(name, modules, Card(base_id=None, created="", versions={}))


def _checked_alpha(path: Path, header: GgufHeader, layout: GgufLayout) -> float:
    """adapter.lora.alpha; 0 stands for a scale of 1, as in llama.cpp."""
    said = {key: header.metadata.get(key) for key in ("general.type", "adapter.type")}
    if list(said.values()) != ["adapter", "lora"]:
        raise AdapterFileError(f"{path} is no LoRA adapter: it says {said}")
    architecture = header.metadata.get("general.architecture")
    if architecture != layout.architecture:
        raise AdapterMismatchError(f"{path} is for {architecture}, the base is {layout.architecture}")
    alpha = header.metadata.get(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    if not isinstance(alpha, int | float) or not 0 <= alpha < 1e6:
        raise AdapterFileError(f"{path}: {gguf.Keys.Adapter.LORA_ALPHA} is {alpha!r}; expected a number")
    return float(alpha)


def _numbers(path: Path, data: bytes, tensor: TensorInfo) -> Tensor:
    stored = data[tensor.offset : tensor.offset + tensor.size_bytes]
    if tensor.kind not in FLOATS:
        raise AdapterFileError(f"{path}: {tensor.name} is {tensor.kind}; factors are read in F32, F16 or BF16")
    numbers = torch.frombuffer(bytearray(stored), dtype=FLOATS[tensor.kind]).float()
    if not numbers.isfinite().all():
        raise AdapterFileError(f"{path}: {tensor.name} holds NaN or infinity")
    return numbers.view(tensor.shape[::-1])


def _layout(base: Base) -> GgufLayout:
    return families()[base.config.family].gguf


def _half(base: Base, module: str) -> int:
    """Half a head's size where the file keeps the rows of this projection in pairs, else 0."""
    return base.config.head_dim // 2 if _layout(base).heads_key(f"{module}.weight") else 0
