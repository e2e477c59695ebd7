"""Files with thousands of faults: each is refused in our own error, or read and computed with.

`make sanitize` runs this with kernels that end the process where they touch memory that is not theirs or compute what
C++ does not define. Every tensor then lies in a block of its own, so that a step beyond its end is found. The file that
was being read stays in the folder that pytest names.
"""

import json
import os
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from fakes import random_adapter
from gguf_bases import write_gguf_base
from mutations import mutated_gguf, mutated_json, mutated_safetensors
from tiny import save_base

import kameleon
from kameleon import Recipe, Sampling
from kameleon.adapters import EndChange, LoraFactors
from kameleon.adapters.formats import (
    read_adapter,
    read_gguf_adapter,
    read_mlx_adapter,
    write_adapter,
    write_gguf_adapter,
    write_mlx_adapter,
)
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.data import Example, pack
from kameleon.errors import KameleonError
from kameleon.generation import Batch, Request, page_bytes
from kameleon.ops import NO_ADAPTER
from kameleon.training.losses import token_logprobs
from kameleon.training.trainee import Trainee
from kameleon.weights import EMBEDDING, HEAD, gguf_file, safetensors_folder

SEEDS = range(*map(int, os.environ.get("KAMELEON_MUTATED_FILES", "0-1000").split("-")))
SOURCES = 24
PROMPT = tuple(range(1, 38))  # more than two pages


@pytest.fixture(autouse=True)
def _a_block_for_each_tensor(monkeypatch):
    """A map of a whole file would hide a step from one tensor into the next. Odd addresses stay odd."""

    def copied(mapped):
        odd = mapped.ctypes.data % 16
        block = np.empty(odd + len(mapped), np.uint8)[odd:]
        block[:] = mapped
        return block

    stored, read = gguf_file._Part.stored, safetensors_folder.SafetensorsFolder._read
    monkeypatch.setattr(gguf_file._Part, "stored", lambda *about: copied(stored(*about)))
    monkeypatch.setattr(safetensors_folder.SafetensorsFolder, "_read", lambda *about: read(*about).clone())


def generate(base, bank, slots):
    """A few tokens for each slot in one batch, by the kernels of generation; whether all numbers were finite."""
    batch = Batch(base, bank, kv_cache_bytes=12 * page_bytes(base.config, base.compute_dtype))
    for number, slot in enumerate(slots):
        batch.add(Request(PROMPT[: 37 - number], None, Sampling(max_tokens=3)), slot, request_id=number)
    ends = []
    while not batch.idle:
        ends += [piece for piece in batch.step() if piece.completion or piece.error]
    assert len(ends) == len(slots)
    return all(piece.completion for piece in ends)


def train(base, adapter):
    """One step of training by the kernels of packed passes, forward and backward."""
    bank = Bank(base)
    slot = bank.add(adapter, any_base=True)
    trainee = Trainee(bank, adapter.name, Recipe())
    rows = [Example(n, PROMPT[n : n + length], (True,) * length) for n, length in enumerate((5, 19))]
    for packed in pack(rows, 100, adapter=slot):
        hidden = base.decoder.hidden(packed.tokens, packed.segments, bank)
        (-token_logprobs(base.decoder, hidden, packed.labels).sum()).backward()
    trainee.update(trained_tokens=22, learning_rate=1e-3)


def use_base(path, dtype):
    """Compute with all of a base's matrices; returns whether all numbers were finite."""
    loaded = kameleon.load(str(path), dtype=dtype, progress=False)
    adapter = random_adapter(loaded.base, "mine", rank=2)
    train(loaded.base, adapter)
    return generate(loaded.base, loaded.bank, [NO_ADAPTER, loaded.bank.add(adapter)])


def count(seeds, tries):
    """Make a try with each seed, and print how many files were computed with, and how many refused, by their errors."""
    told = Counter()
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                told["computed" if tries(seed) else "computed, not finite"] += 1
            except KameleonError as error:
                told[type(error).__name__] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error
    print(f"\n{len(seeds)} files: {dict(told.most_common())}")
    assert told["computed"] and len(told) > 1, told


@pytest.mark.slow
def test_a_mutated_gguf_base_is_refused_or_computed_with(tmp_path):
    sound, path = [], tmp_path / "mutated.gguf"
    for seed in range(SOURCES):
        write_gguf_base(tmp_path / "sound.gguf", seed)
        sound.append((tmp_path / "sound.gguf").read_bytes())
    for content in sound[:4]:
        path.write_bytes(content)
        assert use_base(path, torch.float32)

    def one(seed):
        random = Random(seed)
        path.write_bytes(mutated_gguf(random.choice(sound), seed))
        return use_base(path, random.choice([torch.float32, torch.bfloat16]))

    count(SEEDS[::2], one)


def variants(base):
    """Adapters with all parts that are computed: other ranks, DoRA, biases, other embeddings and heads."""
    plain, (vocab, size) = random_adapter(base, "mine", rank=3), (base.config.vocab_size, base.config.hidden_size)
    some = dict(list(random_adapter(base, "mine", seed=1, rank=9).modules.items())[::3])
    dora = {name: replace(f, magnitude=weight_norms(base, name)) for name, f in plain.modules.items()}
    shifted = {name: replace(f, rslora=True, b_bias=torch.ones(len(f.b))) for name, f in some.items()}
    ends = {
        EMBEDDING: EndChange(factors=LoraFactors(torch.ones(2, size), torch.ones(vocab, 2), 0.1)),
        HEAD: EndChange(instead=base.decoder.head.dense().float() * 1.5),
    }
    biases = {f"model.layers.{layer}.self_attn.q_proj": torch.ones(size) for layer in (0, 2)}
    yield plain
    yield replace(plain, modules=some)
    yield replace(plain, modules=dora)
    yield replace(plain, modules=shifted)
    yield replace(plain, ends=ends)
    yield replace(plain, biases=biases)


def unhashed(folder):
    """The files of an adapter in a folder, without hashes, which would hide every other check."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    if "kameleon.json" in files:
        files["kameleon.json"] = json.dumps({**json.loads(files["kameleon.json"]), "files": {}}).encode()
    return files


def use_adapter(base, adapter):
    """Compute with an adapter; returns whether all numbers were finite."""
    if not adapter.ends and not adapter.biases:
        train(base, adapter)
    bank = Bank(base, frozen=True)
    return generate(base, bank, [NO_ADAPTER, bank.add(adapter, any_base=True)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mutated_adapter_is_refused_or_computed_with(dtype, tmp_path):
    save_base(tmp_path / "base", "qwen2")
    base = kameleon.load(str(tmp_path / "base"), dtype=dtype, progress=False).base
    sound, path, folder = [], tmp_path / "mutated.gguf", tmp_path / "mutated"
    for number, adapter in enumerate(variants(base)):
        write_adapter(adapter, tmp_path / f"peft {number}")
        sound.append((read_adapter, unhashed(tmp_path / f"peft {number}")))
    for number, adapter in enumerate(list(variants(base))[:3]):
        write_mlx_adapter(adapter, base, tmp_path / f"mlx {number}")
        sound.append((read_mlx_adapter, unhashed(tmp_path / f"mlx {number}")))
    for adapter in list(variants(base))[:2]:
        write_gguf_adapter(adapter, base, path)
        sound += [(read_gguf_adapter, path.read_bytes())] * 2

    def one(seed):
        random = Random(seed)
        read, files = random.choice(sound)
        if read is read_gguf_adapter:
            path.write_bytes(mutated_gguf(files, seed))
            return use_adapter(base, read_gguf_adapter(path, base, "mine"))
        chosen = random.choice([name for name in files for _ in range(1 + 3 * name.endswith(".safetensors"))])
        mutate = mutated_json if chosen.endswith(".json") else mutated_safetensors
        for name, content in {**files, chosen: mutate(files[chosen], seed)}.items():
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        try:
            return use_adapter(base, read(folder, name="mine") if read is read_adapter else read(folder, "mine"))
        finally:
            shutil.rmtree(folder)

    count(SEEDS[1 if dtype == torch.float32 else 3 :: 4], one)
