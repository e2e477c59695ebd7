"""What a base recommends for sampling: read from its own files, checked when it is loaded, else one small default."""

import json
import math
import shutil
from dataclasses import replace

import gguf
import pytest
import torch

import kameleon
from kameleon.bases.sampling import FOR_SMALL_BASES, recommended_sampling
from kameleon.errors import WeightsError
from kameleon.generation import Sampling
from kameleon.model import open_weights

SMALL = {"temperature": 0.2, "top_p": 0.9}


@pytest.fixture
def recommended(tmp_path, tiny_folder):
    """The sampling of a folder whose generation config holds these values."""

    def read(**values):
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
        return recommended_sampling(tmp_path, open_weights(tiny_folder))

    return read


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),  # Llama 3
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
        ),  # Qwen 2.5
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, {"temperature": 1.0, "top_k": 64, "top_p": 0.95}),  # Gemma 3
        ({"temperature": 0.9, "min_p": 0.05, "top_k": None}, {"temperature": 0.9, "min_p": 0.05}),
        ({"temperature": 0.7, "top_k": -1}, {"temperature": 0.7}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"eos_token_id": 2}, SMALL),  # SmolLM2
        ({"do_sample": True}, SMALL),
        ({"do_sample": False, "temperature": 1.0, "top_p": 1.0}, SMALL),
        ({"do_sample": False, "repetition_penalty": 1.2}, {**SMALL, "repetition_penalty": 1.2}),
        ({"repetition_penalty": 1.05}, {**SMALL, "repetition_penalty": 1.05}),
    ],
)
def test_a_generation_config_is_followed_and_what_it_leaves_open_gets_a_sane_value(recommended, values, expected):
    assert recommended(**values) == Sampling(**expected)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"temperature": math.nan}, r"temperature in generation_config\.json is nan; it must be a number"),
        ({"temperature": math.inf}, "temperature .* is inf; it must be a number"),
        ({"temperature": "warm"}, "temperature .* is 'warm'; it must be a number"),
        ({"temperature": [0.5]}, r"temperature .* is \[0\.5\]; it must be a number"),
        ({"temperature": True}, "temperature .* is True; it must be a number"),
        (
            {"temperature": -1},
            r"recommends: temperature is -1\.0; it must be from 0 \(greedy\)",
        ),
        ({"top_p": -0.5}, "top_p is -0.5; it must be from 0 to 1"),
        ({"top_k": 1.5}, "top_k .* is 1.5; it must be a whole number"),
        ({"top_k": -7}, "top_k is -7"),
        ({"min_p": 2, "repetition_penalty": 0}, "min_p is 2.0; .*; repetition_penalty is 0.0; it must be above 0"),
        ({"do_sample": "yes"}, "do_sample .* is 'yes'; it must be true or false"),
        ({"do_sample": False, "temperature": "warm"}, "temperature .* is 'warm'"),
    ],
)
def test_a_value_that_cannot_be_is_named_when_the_base_is_loaded(recommended, values, told):
    with pytest.raises(WeightsError, match=told):
        recommended(**values)


@pytest.fixture
def gguf_with(tmp_path):
    """A `.gguf` file with these metadata beside its architecture, opened."""

    def write(**values):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        for name, value in values.items():
            getattr(writer, f"add_sampling_{name}")(value)
        writer.add_tensor("token_embd.weight", torch.zeros(2, 32).numpy())
        for write_part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write_part()
        writer.close()
        return open_weights(tmp_path / "m.gguf")

    return write


def test_a_gguf_file_is_followed_as_llama_cpp_writes_it(tmp_path, gguf_with):
    file = gguf_with(temp=0.6, top_p=0.95, top_k=20, min_p=0.05, penalty_repeat=1.1)
    expected = Sampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1)
    assert recommended_sampling(tmp_path, file) == expected
    assert recommended_sampling(tmp_path, gguf_with()) == FOR_SMALL_BASES == Sampling(**SMALL)
    with pytest.raises(WeightsError, match=r"m\.gguf recommends: temperature is -1\.0"):
        recommended_sampling(tmp_path, gguf_with(temp=-1.0))


def test_python_reaches_what_a_base_recommends_and_stays_greedy_without_it(tmp_path, tiny_folder, tiny):
    folder = shutil.copytree(tiny_folder, tmp_path / "own")
    (folder / "generation_config.json").write_text('{"temperature": 1.5, "top_k": 40, "eos_token_id": 257}')
    own = kameleon.load(str(folder), dtype=torch.float32)
    assert own.base.sampling == Sampling(temperature=1.5, top_k=40)
    assert own.generate(["Hi"]) == tiny.generate(["Hi"]) == own.generate(["Hi"], sampling=Sampling())
    wish = replace(own.base.sampling, max_tokens=20, seed=3)
    assert own.generate(["Hi"], sampling=wish) != own.generate(["Hi"], sampling=Sampling(max_tokens=20))
