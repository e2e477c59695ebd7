"""What an adapter trains and weighs, against published numbers and against written files."""

import gguf
import pytest
from fakes import random_adapter

from kameleon import Recipe
from kameleon.adapters.formats import write_adapter
from kameleon.model import module_shapes
from kameleon.model.hf_config import config_from_hf
from kameleon.plan import (
    COMMON_NAMES,
    adapter_bytes,
    common_header,
    lora_parameters,
    parameter_table,
    trainable_parameters,
)
from kameleon.training.trainee import fresh_factors

LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@pytest.mark.parametrize(
    ("layers", "width", "rank", "millions"),
    [(96, 12288, 1, 4.7), (96, 12288, 8, 37.7), (12, 768, 8, 0.3), (24, 1024, 8, 0.8)],
    ids=["GPT-3 175B", "GPT-3 175B, rank 8", "RoBERTa base", "RoBERTa large"],
)
def test_counts_on_wq_and_wv_are_those_of_the_lora_paper(layers, width, rank, millions):
    assert round(lora_parameters([(width, width)] * 2 * layers, rank) / 1e6, 1) == millions


def test_llama_2_7b_trains_four_million_numbers_at_rank_8_on_wq_and_wv():
    recipe = Recipe(rank=8, targets="q_proj,v_proj")
    assert trainable_parameters(config_from_hf(LLAMA_2_7B), recipe) == 4_194_304


@pytest.mark.parametrize("recipe", [Recipe(rank=4), Recipe(rank=3, targets="q_proj,down_proj", layers=2)])
def test_the_adapters_file_has_the_predicted_size_to_the_byte(tiny, tmp_path, recipe):
    from kameleon.adapters import Adapter, Card

    adapter = Adapter("x", fresh_factors(tiny.base.config, recipe), Card())
    write_adapter(adapter, tmp_path / "x")
    assert (tmp_path / "x" / "adapter_model.safetensors").stat().st_size == adapter_bytes(tiny.base.config, recipe)
    assert adapter.parameters == trainable_parameters(tiny.base.config, recipe)


def test_the_table_holds_the_recipes_own_choice(tiny):
    table = parameter_table(tiny.base.config, Recipe(rank=5, targets="up_proj"))
    assert table["up_proj"][5] == lora_parameters([(96, 64)] * 3, 5)
    assert table["all-linear"][4] == random_adapter(tiny.base, "x", rank=4).parameters
    assert table["all-linear"][4] == lora_parameters(module_shapes(tiny.base.config).values(), 4)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("SmolLM2 135M", 0.1345),
        ("SmolLM2 360M", 0.3618),
        ("SmolLM2 1.7B", 1.711),
        ("Qwen2.5 0.5B", 0.494),
        ("Qwen2.5 1.5B", 1.544),
        ("Qwen2.5 7B", 7.616),
        ("Qwen2.5 72B", 72.7),
        ("Llama 3.2 1B", 1.236),
        ("Llama 3.1 8B", 8.03),
        ("Llama 3.1 70B", 70.55),
        ("Mistral 7B", 7.248),
        ("Qwen3 0.6B", 0.596),
        ("Qwen3 8B", 8.19),
        ("Gemma 3 1B", 1.0),
        ("Gemma 3 27B", 27.0),
    ],
)
def test_common_bases_have_their_published_sizes(name, billions):
    header = common_header(name)
    numbers = sum(rows * columns for rows, columns in (tensor.shape for tensor in header.tensors.values()))
    assert numbers / 1e9 == pytest.approx(billions, rel=0.01)


def test_rows_of_common_bases_are_whole_blocks():
    for header in map(common_header, COMMON_NAMES):
        for name, tensor in header.tensors.items():
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
            assert tensor.shape[1] % block == 0, (header.name, name)
            assert tensor.size_bytes == tensor.shape[0] * tensor.shape[1] // block * block_bytes
