"""Cards, rows, bases and file names of strangers: no command prints their control codes as they are."""

import json
from dataclasses import replace

import pytest
from fakes import random_adapter
from test_terminal import HOSTILE, harmful

from kameleon.adapters import Shelf
from kameleon.adapters.card import Parent
from kameleon.adapters.formats.model_card import adapter_readme

NAME = "x\x1b[31m\x9b2J\u202e"
"""In a file's name, which holds no slash."""


@pytest.fixture
def hostile(tiny, tmp_path):
    """A shelf with an adapter whose card holds control codes in each field, another that is broken, and such rows."""
    made = random_adapter(tiny.base, "law")
    told = {HOSTILE: HOSTILE, "rows": 3, "list": [HOSTILE]}
    card = replace(
        made.card,
        base_id=HOSTILE,
        base_hub_id=HOSTILE,
        base_licence=HOSTILE,
        system_prompt=HOSTILE,
        created=HOSTILE,
        data=told,
        recipe=told,
        scores={HOSTILE: 1.0},
        versions={HOSTILE: HOSTILE},
        parents=(Parent(HOSTILE, HOSTILE, 1.0, HOSTILE),),
    )
    for _ in range(2):
        Shelf().save(replace(made, card=card))
    broken = Shelf().root / NAME
    broken.mkdir()
    (broken / "current").write_text(HOSTILE)
    rows = [
        {"prompt": HOSTILE, "completion": HOSTILE},
        {HOSTILE: HOSTILE},
        {"messages": [{"role": HOSTILE, "content": HOSTILE}]},
        {"prompt": "a", "completion": ""},
    ]
    path = tmp_path / f"{NAME}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{" + HOSTILE)
    return path


@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_prints_a_control_code(hostile, on_tiny, tmp_path, as_json):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "config.json").write_text(json.dumps({"model_type": HOSTILE, "architectures": [HOSTILE]}))
    commands = [
        ("adapter", "list"),
        ("adapter", "show", "law"),
        ("adapter", "show", NAME),
        ("adapter", "history", "law"),
        ("clean",),
        ("data", "check", hostile),
        ("data", "check", HOSTILE),
        ("base", "show", tmp_path / NAME),
        ("base", "list"),
    ]
    for words in commands:
        _, out, err = on_tiny(*words, *(("--json",) if as_json else ()), base=words[0] == "data")
        assert not harmful(out) and not harmful(err), words
        assert out or err, words


def test_what_an_export_writes_of_a_card_is_only_text(hostile):
    link = "](http://example.org)\n# A title\n<script>`x`*b*|"
    adapter = Shelf().load("law")
    card = replace(
        adapter.card, base_hub_id=f"x; rm -rf .{link}", base_licence=link, system_prompt=f"{HOSTILE}\n{link}"
    )
    text = adapter_readme(replace(adapter, card=card), "peft")
    body = text.split("---\n", 2)[2]
    lines = [line for line in body.splitlines() if not line.startswith("    ")]  # those are code
    assert not harmful(text) and "# A title" not in lines
    assert not any("<script" in line or "](http" in line.replace("\\]", "") for line in lines)
    assert "vllm serve 'x; rm -rf ." in text
