"""A base's small files, each field with values that make no sense: only Kameleon's errors come out, or it works."""

import json
import math

import pytest
from tiny import save_base

from kameleon.bases import load_base
from kameleon.errors import KameleonError, WeightsError

HOSTILE = [
    *(math.nan, math.inf, -1, 0, 10**18, -(10**400), 10**400, True, 1.5, 1e300, "x", "1" * 50, [], [[]], {}, {"a": 1}),
    *([1, "a", None], {"__type": "AddedToken", "content": "a" * 10}, None),
]
KNOWN = {
    "config.json": "head_dim layer_types quantization_config rope_scaling rope_theta sliding_window tokenizer_class",
    "generation_config.json": "do_sample eos_token_id min_p repetition_penalty temperature top_k top_p",
    "tokenizer_config.json": "added_tokens_decoder additional_special_tokens auto_map chat_template eos_token "
    "extra_special_tokens legacy model_max_length padding_side tokenizer_class unk_token",
}


@pytest.fixture
def folder(tmp_path):
    save_base(tmp_path / "base")
    return tmp_path / "base"


def use(folder):
    base = load_base(str(folder))
    assert base.stop_token_ids and base.parameters
    assert base.template.encode_prompt([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("value", ["x", [], {"a": 1}, True, math.nan])
def test_a_length_of_texts_that_is_no_number_is_told_by_file_and_field(folder, value):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": value}))
    with pytest.raises(WeightsError, match=r"model_max_length in the tokenizer_config.json of .* must be a number"):
        load_base(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_whatever_a_field_holds_only_our_errors_come_out(folder, name):
    path = folder / name
    document = json.loads(path.read_text())
    for key in dict.fromkeys([*document, *KNOWN[name].split()]):
        for value in HOSTILE:
            path.write_text(json.dumps({**document, key: value}))
            try:
                use(folder)
            except KameleonError as error:
                assert len(str(error)) < 2000
