"""Gradients of A and B equal those of fp32 autograd through transformers and PEFT, on text, module by module."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import random_adapter
from peft import PeftModel
from tiny import FAMILIES, reference_model, save_base
from transformers import AutoModelForCausalLM, GgufConfig

import kameleon
from kameleon import Recipe
from kameleon.adapters.formats import write_adapter
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.bases import locate
from kameleon.data import Example, pack
from kameleon.ops import kernels
from kameleon.training.losses import token_logprobs
from kameleon.training.trainee import Trainee

TEXT = Path(__file__).parents[2] / "LICENSE"
ROWS = (60, 7, 111, 40)  # tokens


def small_adapter(base):
    """Of a trained one's size: in a network with a large random one, rounding grows from layer to layer."""
    adapter = random_adapter(base, "mine")
    modules = {name: replace(f, a=f.a / f.a.shape[1] ** 0.5, b=f.b / 10) for name, f in adapter.modules.items()}
    return replace(adapter, modules=modules)


def read_rows(tokenizer, lengths=ROWS):
    tokens = tokenizer(TEXT.read_text())["input_ids"]
    return [tokens[sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(len(lengths))]


def our_gradients(base, adapter, rows, shared=0, checkpoint_layers=0):
    """Summed over all rows, in one packed pass: {module: (of A, of B, of DoRA's magnitude if there is one)}; the first
    `shared` tokens are not learned."""
    bank = Bank(base)
    slot = bank.add(adapter, any_base=True)
    trainee = Trainee(bank, adapter.name, Recipe())
    learned = [tuple(at >= shared for at in range(len(row))) for row in rows]
    examples = [Example(i, tuple(row), one) for i, (row, one) in enumerate(zip(rows, learned, strict=True))]
    for packed in pack(examples, 10_000, adapter=slot):
        assert (packed.segments.parents.count(0) == len(rows)) == bool(shared)
        hidden = base.decoder.hidden(packed.tokens, packed.segments, bank, checkpoint_layers=checkpoint_layers)
        (-token_logprobs(base.decoder, hidden, packed.labels).sum()).backward()

    def part(factor):
        at = factor.storage_offset()
        return trainee.gradient[at : at + factor.numel()].view(factor.shape)

    modules = bank.resident(adapter.name).modules
    return {name: tuple(part(tensor) for tensor in f.tensors) for name, f in modules.items()}


def their_gradients(model, rows, shared):
    for row in rows:
        tokens = torch.tensor([row])
        first = max(1, shared)
        logits = model(input_ids=tokens).logits[0, first - 1 : -1]
        torch.nn.functional.cross_entropy(logits, tokens[0, first:], reduction="sum").backward()
    named = dict(model.named_parameters())
    kinds = ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight")
    found = {}
    for name in named:
        if name.endswith(kinds[0]):
            siblings = [named.get(name.replace(kinds[0], kind)) for kind in kinds]
            found[name.removeprefix("base_model.model.").removesuffix(f".{kinds[0]}")] = tuple(
                parameter.grad for parameter in siblings if parameter is not None
            )
    return found


def check(base, model, adapter, rows, folder, least_cosine, tolerance, *, shared=0, checkpoint_layers=0):
    write_adapter(adapter, folder)
    ours = our_gradients(base, adapter, rows, shared, checkpoint_layers)
    theirs = their_gradients(PeftModel.from_pretrained(model, folder, is_trainable=True).eval(), rows, shared)
    assert ours.keys() == theirs.keys()
    for name, pair in ours.items():
        for mine, wanted in zip(pair, theirs[name], strict=True):
            assert torch.cosine_similarity(mine.flatten(), wanted.flatten().float(), dim=0) >= least_cosine, name
            assert (mine - wanted).norm() <= tolerance * wanted.norm(), name


TYPES = pytest.mark.parametrize(
    ("dtype", "least_cosine", "tolerance"),
    [(torch.float32, 0.99999, 1e-4), (torch.bfloat16, 0.998, 7e-2)],
    ids=["fp32", "bf16"],
)


@TYPES
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_on_small_bases(family, dtype, least_cosine, tolerance, tmp_path):
    save_base(tmp_path / "base", family)
    loaded = kameleon.load(str(tmp_path / "base"), dtype=dtype)
    adapter = small_adapter(loaded.base)
    check(
        loaded.base,
        reference_model(family),
        adapter,
        read_rows(loaded.base.tokenizer),
        tmp_path / "mine",
        least_cosine,
        tolerance,
    )


@pytest.mark.parametrize("family", ["llama tied", "qwen2", "gemma3"])
@pytest.mark.parametrize("checkpoint_layers", [0, 1, 100])
def test_gradients_of_dora(family, checkpoint_layers, tmp_path):
    save_base(tmp_path / "base", family)
    loaded = kameleon.load(str(tmp_path / "base"), dtype=torch.float32)
    plain = small_adapter(loaded.base)
    modules = {
        name: replace(f, magnitude=weight_norms(loaded.base, name) * torch.empty(len(f.b)).uniform_(0.8, 1.2))
        for name, f in plain.modules.items()
    }
    adapter, rows = replace(plain, modules=modules), read_rows(loaded.base.tokenizer)
    model = reference_model(family)
    check(loaded.base, model, adapter, rows, tmp_path / "mine", 0.99999, 1e-4, checkpoint_layers=checkpoint_layers)


@pytest.mark.parametrize("family", ["llama tied", "mistral, windowed", "gemma3"])
def test_gradients_through_a_shared_prefix_and_checkpointed_layers(family, tmp_path):
    save_base(tmp_path / "base", family)
    loaded = kameleon.load(str(tmp_path / "base"), dtype=torch.float32)
    first, *rest = read_rows(loaded.base.tokenizer)
    rows = [first[:25] + row for row in rest]
    adapter = small_adapter(loaded.base)
    check(
        loaded.base,
        reference_model(family),
        adapter,
        rows,
        tmp_path / "mine",
        0.99999,
        1e-4,
        shared=25,
        checkpoint_layers=2,
    )


# A tensor or two of 420 land within 0.002 below 0.999, which ones is chance: on this text none with these units.
BF16_UNITS = pytest.mark.skipif(kernels().level != "avx512bf16", reason="training computes in fp32 here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "rows", "least_cosine", "tolerance"),
    [(torch.float32, ROWS, 0.99999, 1e-4), pytest.param(torch.bfloat16, (512,) * 4, 0.999, 5e-2, marks=BF16_UNITS)],
    ids=["fp32", "bf16"],
)
def test_gradients_on_the_real_base(dtype, rows, least_cosine, tolerance, tmp_path):
    """In bf16 over as many tokens as a step has: rounding is noise, which more of them average out."""
    loaded = kameleon.load("smollm2", dtype=dtype)
    path = locate("smollm2").path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.config.quantization_config = None
    for parameter in model.parameters():  # not `model.to`: it would round the rotary embedding's frequencies as well
        parameter.data = parameter.data.to(dtype).float()  # what is compared is the arithmetic, on the same numbers
    adapter = small_adapter(loaded.base)
    rows = read_rows(loaded.base.tokenizer, rows)
    check(loaded.base, model, adapter, rows, tmp_path / "mine", least_cosine, tolerance)
