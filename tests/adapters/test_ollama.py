"""A folder for `ollama create`. Ollama itself cannot be had here, so this is its format only."""

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf, modelfile, read_gguf_adapter, write_ollama
from kameleon.cli import main
from kameleon.model import go_template


def test_the_modelfile_says_what_training_did(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_ollama(adapter, tiny.base, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Modelfile", "mine.gguf"}
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text == modelfile(adapter, tiny.base)
    assert f"\nFROM {tiny.base.files.path}\nADAPTER ./mine.gguf\n" in text
    assert f'TEMPLATE """{go_template(tiny.base.template)}"""\n' in text
    stops = [line for line in text.splitlines() if line.startswith("PARAMETER stop")]
    ends = {tiny.base.tokenizer.decode([token]) for token in tiny.base.stop_token_ids}
    assert stops == [f'PARAMETER stop "{end}"' for end in ends]
    assert "<|im_end|>" in ends
    read = read_gguf_adapter(tmp_path / "out" / "mine.gguf", tiny.base, "mine")
    assert read.fingerprint == adapter.fingerprint


def test_the_command_writes_one_that_was_not_there(tiny, tiny_folder, tmp_path):
    Shelf().save(random_adapter(tiny.base, "mine"))
    command = ["adapter", "export", "mine", "--to", "ollama", "--base", str(tiny_folder), "--out", str(tmp_path / "o")]
    for expected in (0, 2):
        with pytest.raises(SystemExit) as end:
            main(command)
            raise SystemExit(0)
        assert (end.value.code or 0) == expected
    assert (tmp_path / "o" / "Modelfile").exists()
