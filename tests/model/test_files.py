"""A base's files, read with their config."""

import json

import pytest
from configs import new_style

from kameleon.errors import WeightsError
from kameleon.model import open_weights
from kameleon.model.files import read_config


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "3", b"\xff\xfe"])
def test_an_unreadable_config_file_is_named(tmp_path, tiny_folder, text):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        read_config(tmp_path, open_weights(tiny_folder))


def test_a_folder_is_read_with_its_generation_config(tmp_path, tiny_folder):
    (tmp_path / "config.json").write_text(json.dumps(new_style("qwen2")))
    assert read_config(tmp_path, open_weights(tiny_folder)).stop_token_ids == {7}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert read_config(tmp_path, open_weights(tiny_folder)).stop_token_ids == {3, 4}
