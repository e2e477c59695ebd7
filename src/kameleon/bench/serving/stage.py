"""What a comparison needs on disk: SmolLM2 in bf16 as well as in its GGUF, and adapters of random numbers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kameleon.adapters import Adapter, Card, LoraFactors, Shelf
from kameleon.bench.bases import SHAPES, base_path, built_apart
from kameleon.bench.serving.contender import Stage
from kameleon.bench.serving.settings import ServeBenchSettings
from kameleon.errors import BaseModelError
from kameleon.home import cache_dir
from kameleon.model import DecoderConfig, module_shapes, open_weights, read_config
from kameleon.text.tokenizer import load_tokenizer

_DRAWN = 16  # adapters of numbers of their own; beyond these, names of the same files
_A_SIZE, _B_SIZE = 0.04, 0.002  # random factors that change what is said, but leave the numbers of a usual size


@contextmanager
def set_stage(ref: str, settings: ServeBenchSettings) -> Iterator[Stage]:
    """The base that `ref` names (a GGUF file) in both forms, and a shelf of adapters that lasts as long as the block.

    A shape of random weights (see `SHAPES`) stays as it lies: those are there since unpacked ones would be too large.
    Raises FetchError, BaseModelError.
    """
    gguf = base_path(ref)
    folder = gguf if ref in SHAPES else bf16_folder(gguf)
    config = read_config(folder, open_weights(folder))
    with tempfile.TemporaryDirectory(prefix="kameleon-serve-") as home:
        shelf = Shelf(Path(home) / "adapters")
        drawn = min(settings.adapters, _DRAWN)
        saved = [shelf.save(random_adapter(config, f"a{at}", at, settings.rank)) for at in range(drawn)]
        for at in range(drawn, settings.adapters):
            _link(shelf.folder(f"a{at % drawn}"), shelf.root / f"a{at}")
        yield Stage(folder, gguf, saved, Path(home), settings)


def _link(folder: Path, name: Path) -> None:
    """Another adapter of the same files: a thousand of SmolLM2's would be twenty gigabytes."""
    shutil.copytree(folder, name, copy_function=os.link)


def random_adapter(config: DecoderConfig, name: str, seed: int, rank: int) -> Adapter:
    """Every projection adapted by random factors."""
    generator = torch.Generator().manual_seed(seed)

    def factors(in_size: int, out_size: int) -> LoraFactors:
        a = torch.randn(rank, in_size, generator=generator) * _A_SIZE
        return LoraFactors(a, torch.randn(out_size, rank, generator=generator) * _B_SIZE, 2.0 * rank)

    shapes = module_shapes(config).items()
    modules = {module: factors(in_size, out_size) for module, (out_size, in_size) in shapes}
    return Adapter(name, modules, Card())


def bf16_folder(gguf: Path) -> Path:
    """The base of a GGUF file unpacked to bf16 in Hugging Face layout, built once. A folder is taken as it is."""
    if gguf.is_dir():
        return gguf
    folder = cache_dir() / "bench" / f"{gguf.stem}-bf16"
    if not folder.exists() and not built_apart(_unpack, gguf, folder):
        raise BaseModelError(f"{gguf} could not be unpacked to {folder}; is there room for its weights?")
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(fresh)
        load_tokenizer(gguf, open_weights(gguf)).save_pretrained(fresh)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
