"""kameleon adapter export: what other programs need, nothing of this machine, and the next command."""

import getpass
import json
from dataclasses import replace

import pytest
from fakes import random_adapter
from huggingface_hub import ModelCard

from kameleon.adapters import Shelf
from kameleon.adapters.formats import read_adapter


def shelve(base, **card):
    law = random_adapter(base, "law")
    made = replace(law.card, data={"path": "rows.jsonl", "sha256": "ab" * 32, "rows": 3}, **card)
    Shelf().save(replace(law, card=made))


ON_HUB = {"base_hub_id": "owner/name", "base_licence": "Apache-2.0"}


def texts_in(folder):
    files = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("to", ["peft", "gguf", "ollama", "mlx"])
def test_an_export_holds_no_path_of_this_machine(to, run, tiny, tiny_folder, tmp_path):
    shelve(tiny.base)
    out = tmp_path / f"{getpass.getuser()}-out"
    words = () if to == "peft" else ("--base", tiny_folder)
    status, _, err = run("adapter", "export", "law", "--to", to, "--out", out, *words)
    assert status == 0, err
    held = texts_in(out.with_name(f"{out.name}.gguf") if to == "gguf" else out)
    for name, content in held.items():
        for secret in (str(tmp_path), str(tiny_folder.parent), str(out)):
            assert secret.encode() not in content, name


def test_the_base_is_the_cards_own_unless_another_is_given(run, tiny, tmp_path):
    shelve(tiny.base)  # its card says "tiny"; where that lies is noted on this machine
    assert run("adapter", "export", "law", "--to", "gguf", "--out", tmp_path / "law.gguf")[0] == 0
    Shelf().save(replace(random_adapter(tiny.base, "lost"), card=replace(tiny_card(), base_id=None)))
    status, _, err = run("adapter", "export", "lost", "--to", "gguf", "--out", tmp_path / "lost.gguf")
    assert (status, "give it as --base" in err) == (2, True)


def tiny_card():
    return Shelf().load("law").card


@pytest.mark.parametrize(
    ("to", "place", "steps"),
    [
        ("peft", "law", ["vllm serve owner/name --enable-lora --max-lora-rank 8 --lora-modules law={out}"]),
        ("gguf", "law.gguf", ["--lora {out}", "for LM Studio, which takes no adapters: kameleon adapter merge law"]),
        ("ollama", "law", ["ollama create law -f {out}/Modelfile", "ollama run law"]),
        ("mlx", "law", ["mlx_lm.generate --model owner/name --adapter-path {out}"]),
    ],
)
def test_the_next_command_is_printed(to, place, steps, run, tiny, tiny_folder, tmp_path):
    shelve(tiny.base, **ON_HUB)
    words = () if to == "peft" else ("--base", tiny_folder)
    _, _, err = run("adapter", "export", "law", "--to", to, "--out", tmp_path / "law", *words)
    assert (tmp_path / place).exists(), "the name of a .gguf file is completed"
    for step in steps:
        assert f"next: {step.format(out=tmp_path / place)}" in err or step.format(out=tmp_path / place) in err


def test_the_readme_is_a_model_card_with_the_licence_of_the_base(run, tiny, tmp_path):
    shelve(tiny.base, **ON_HUB, system_prompt="Be brief.")
    run("adapter", "export", "law", "--out", tmp_path / "law")
    card = ModelCard.load(tmp_path / "law" / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("owner/name", "peft", "apache-2.0")
    for told in ("The licence of the base is Apache-2.0", "rows.jsonl", "ab" * 32, "    Be brief.", "word for word"):
        assert told in card.text
    assert json.loads((tmp_path / "law" / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/name"


@pytest.mark.parametrize(
    ("licence", "metadata"),
    [
        ("Gemma (https://ai.google.dev/gemma/terms)", {"license": "gemma"}),
        ("Free (https://example.org)", {"license": "other", "license_name": "free",
                                        "license_link": "https://example.org"}),
        ("evil\nlibrary_name: x", {"license": "other", "license_name": "evil\nlibrary_name: x"}),
        (None, {}),
    ],
)  # fmt: skip
def test_licences_are_written_in_the_hubs_words(licence, metadata, run, tiny, tmp_path):
    shelve(tiny.base, base_licence=licence)
    run("adapter", "export", "law", "--out", tmp_path / "law")
    data = ModelCard.load(tmp_path / "law" / "README.md").data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == metadata
    assert data["library_name"] == "peft"


def test_a_base_without_a_known_id_leaves_it_empty_and_says_so(run, tiny, tiny_folder, tmp_path):
    shelve(tiny.base)
    for words in ((), ("--base", tiny_folder)):
        out = tmp_path / f"law{len(words)}"
        err = run("adapter", "export", "law", "--out", out, *words)[2]
        assert "base_model_name_or_path stays empty" in err
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    err = run("adapter", "export", "law", "--out", tmp_path / "given", "--base", "owner/name")[2]
    assert "base_model_name_or_path is owner/name, as you say" in " ".join(err.split())
    assert read_adapter(tmp_path / "given").card.base_hub_id == "owner/name"
    shelve(tiny.base, **ON_HUB)
    status, _, err = run("adapter", "export", "law", "--out", tmp_path / "other", "--base", "another/one")
    assert (status, "was trained on owner/name, not on another/one" in err) == (2, True)


def test_show_prints_plain_values(run, tiny):
    shelve(tiny.base, scores={"eval_loss": 0.25})
    out = run("adapter", "show", "law")[1]
    head = out[: out.index("rank 4 trained")]
    assert not set("{}[]'") & set(head), "no Python values"
    assert "None" not in head
    assert "path: rows.jsonl" in head
