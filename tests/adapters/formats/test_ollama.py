"""A folder for `ollama create`. Ollama itself cannot be had here, so this is its format only."""

import re
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from tiny import save_gguf

import kameleon
from kameleon.adapters import Shelf
from kameleon.adapters.formats import modelfile, read_gguf_adapter, write_ollama
from kameleon.cli import main
from kameleon.errors import SettingError
from kameleon.text import go_template


def test_the_modelfile_says_what_training_did(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_ollama(adapter, tiny.base, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Modelfile", "mine.gguf", "README.md", "base"}
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text == modelfile(adapter, tiny.base)
    assert "\nFROM ./base\nADAPTER ./mine.gguf\n" in text
    weights = tmp_path / "out" / "base" / "model.safetensors"
    assert weights.samefile(tiny.base.files.path / "model.safetensors"), "the base takes no room twice"
    assert f'TEMPLATE """{go_template(tiny.base.template)}"""\n' in text
    stops = [line for line in text.splitlines() if line.startswith("PARAMETER stop")]
    ends = {tiny.base.tokenizer.decode([token]) for token in tiny.base.stop_token_ids}
    assert stops == [f'PARAMETER stop "{end}"' for end in ends]
    assert "<|im_end|>" in ends
    read = read_gguf_adapter(tmp_path / "out" / "mine.gguf", tiny.base, "mine")
    assert read.fingerprint == adapter.fingerprint


@pytest.mark.parametrize("linked", [True, False])
def test_a_gguf_base_lies_beside_the_modelfile_and_is_named_without_a_path(linked, tmp_path, monkeypatch):
    save_gguf(tmp_path / "mine.gguf", "Q8_0")  # the adapter's name
    base = replace(kameleon.load(str(tmp_path / "mine.gguf"), dtype=torch.float32).base, licence="Apache-2.0")
    if not linked:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    write_ollama(random_adapter(base, "mine"), base, tmp_path / "out")
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "\nFROM ./base/mine.gguf\nADAPTER ./mine.gguf\n" in text
    assert '\nLICENSE """Apache-2.0"""\n' in text
    assert str(tmp_path) not in text
    assert (tmp_path / "out" / "base" / "mine.gguf").read_bytes() == (tmp_path / "mine.gguf").read_bytes()
    assert (tmp_path / "out" / "base" / "mine.gguf").samefile(tmp_path / "mine.gguf") == linked


def test_the_modelfile_samples_as_chat_and_the_server_do(tiny):
    lines = modelfile(random_adapter(tiny.base, "mine"), tiny.base).splitlines()
    told = dict(line.split()[1:] for line in lines if line.startswith("PARAMETER ") and " stop " not in line)
    assert told == {"temperature": "0.2", "top_p": "0.9", "top_k": "0", "min_p": "0", "repeat_penalty": "1"}


def test_the_command_writes_one_that_was_not_there(tiny, tiny_folder, tmp_path):
    Shelf().save(random_adapter(tiny.base, "mine"))
    command = ["adapter", "export", "mine", "--to", "ollama", "--base", str(tiny_folder), "--out", str(tmp_path / "o")]
    for expected in (0, 2):
        with pytest.raises(SystemExit) as end:
            main(command)
            raise SystemExit(0)
        assert (end.value.code or 0) == expected
    assert (tmp_path / "o" / "Modelfile").exists()


def system_of(text):
    """What Ollama's parser takes for SYSTEM: the text from the first three quotes to the first that end a line; no
    escapes, and letters, marks, numbers, signs and plain spaces only."""
    found = re.search(r'^SYSTEM """(.*?)"""[ \t]*[\r\n]', text, re.DOTALL | re.MULTILINE)
    return found and "".join(letter for letter in found[1] if letter.isprintable() or letter in "\t\r\n")


def saying(adapter, prompt):
    return replace(adapter, card=replace(adapter.card, system_prompt=prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        "You are a pirate.",
        'Say "arr"',
        '"""x',
        "\n  Two lines,\n\ta tab \\n and {{ .System }}  ",
        "Zażółć gęślą jaźń, 海賊",
        'a """ b',
        "FROM x\nSYSTEM y",
    ],
)
def test_the_modelfile_gives_the_system_prompt_of_training(prompt, tiny):
    mine = random_adapter(tiny.base, "mine")
    assert system_of(modelfile(saying(mine, prompt), tiny.base)) == prompt
    assert system_of(modelfile(mine, tiny.base)) is None


def test_a_line_that_would_end_the_system_prompt_early_is_refused(tiny):
    with pytest.raises(SettingError, match=r'a line that ends with """.*as GGUF'):
        modelfile(saying(random_adapter(tiny.base, "mine"), 'Write """ \nthen go on'), tiny.base)


def test_what_ollama_would_drop_without_a_word_is_told(tiny):
    with pytest.warns(UserWarning, match=r"cannot hold U\+00A0, U\+200B of the system prompt"):
        text = modelfile(saying(random_adapter(tiny.base, "mine"), "Quoi\u00a0? O\u200bui"), tiny.base)
    assert system_of(text) == "Quoi ? Oui"
    with pytest.warns(UserWarning, match="takes an empty system prompt for none"):
        modelfile(saying(random_adapter(tiny.base, "mine"), ""), tiny.base)
