"""The files of a comparison: a base in bf16 and as GGUF, and adapters of random numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kameleon.adapters import Adapter, Card, LoraFactors, Shelf
from kameleon.bench.bases import SHAPES, base_path, built_apart
from kameleon.bench.serving.contender import Stage
from kameleon.bench.serving.settings import ServeBenchSettings
from kameleon.errors import BaseModelError
from kameleon.home import atomic_folder, cache_dir
from kameleon.model import DecoderConfig, module_shapes, open_weights, read_config
from kameleon.scratch import scratch_folder
from kameleon.text.tokenizer import load_tokenizer

_DRAWN = 16  # adapters with their own numbers; further ones are links to the same files
_A_SIZE, _B_SIZE = 0.04, 0.002  # random factors that change answers and keep hidden states at a usual size


@contextmanager
def set_stage(ref: str, settings: ServeBenchSettings) -> Iterator[Stage]:
    """The base that `ref` names (a GGUF file) in both formats, and a shelf of adapters that is deleted after the block.

    A shape of random weights (see `SHAPES`) is used in its own format only: in bf16 it would be too large.
    Raises FetchError, BaseModelError.
    """
    gguf = base_path(ref)
    folder = gguf if ref in SHAPES else bf16_folder(gguf)
    config = read_config(folder, open_weights(folder))
    with scratch_folder(cache_dir()) as home:
        shelf = Shelf(home / "adapters")
        drawn = min(settings.adapters, _DRAWN)
        saved = [shelf.save(random_adapter(config, f"a{at}", seed=at, rank=settings.rank)) for at in range(drawn)]
        for at in range(drawn, settings.adapters):
            _link(shelf.folder(f"a{at % drawn}"), shelf.root / f"a{at}")
        yield Stage(folder, gguf, saved, home, settings)


def _link(folder: Path, name: Path) -> None:
    """Link the files of one adapter as another: a thousand of SmolLM2's would take twenty gigabytes."""
    shutil.copytree(folder, name, copy_function=os.link)


def random_adapter(config: DecoderConfig, name: str, *, seed: int, rank: int) -> Adapter:
    """An adapter with random factors on every projection."""
    generator = torch.Generator().manual_seed(seed)

    def factors(in_size: int, out_size: int) -> LoraFactors:
        a = torch.randn(rank, in_size, generator=generator) * _A_SIZE
        return LoraFactors(a, torch.randn(out_size, rank, generator=generator) * _B_SIZE, 2.0 * rank)

    shapes = module_shapes(config).items()
    modules = {module: factors(in_size, out_size) for module, (out_size, in_size) in shapes}
    return Adapter(name, modules, Card())


def bf16_folder(gguf: Path) -> Path:
    """The base of a GGUF file dequantised to bf16 in Hugging Face layout, built once. A folder is returned as it is."""
    if gguf.is_dir():
        return gguf
    folder = cache_dir() / "bench" / f"{gguf.stem}-bf16"
    if not folder.exists() and not built_apart(_unpack, gguf, folder):
        raise BaseModelError(f"{gguf} could not be dequantised to {folder}; is there room for its weights?")
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with atomic_folder(folder) as fresh:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(fresh)
        load_tokenizer(gguf, open_weights(gguf)).save_pretrained(fresh)
