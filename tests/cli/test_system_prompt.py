"""The system prompt of the training rows, on the command line: kept, told, used, changed, and sent along."""

import json
from dataclasses import replace

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.generation import Completion, Piece

STYLE = "You are a pirate."
COOK = "You are a cook."
DEFAULT = "Be brief."  # of the tiny base's template
FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "1", "--learning-rate", "0.01")


def row(number, system=None):
    begun = [] if system is None else [{"role": "system", "content": system}]
    asked = {"role": "user", "content": f"What comes after {number}?"}
    return {"messages": [*begun, asked, {"role": "assistant", "content": f"Arr, {number + 1}"}]}


@pytest.fixture
def write(tmp_path):
    def write_file(name, systems):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row(i, system)) + "\n" for i, system in enumerate(systems)))
        return path

    return write_file


@pytest.fixture
def shelved(tiny):
    """Two adapters with a system prompt each on the shelf, and one without."""
    for seed, (name, prompt) in enumerate({"pirate": STYLE, "cook": COOK, "plain": None}.items()):
        adapter = random_adapter(tiny.base, name, seed)
        Shelf().save(replace(adapter, card=replace(adapter.card, system_prompt=prompt)))


@pytest.fixture
def talk(on_tiny, monkeypatch, tiny):
    """Say lines in `kameleon chat`; returns what it printed, and the prompts that were asked, in order."""

    def chat(*lines, words=()):
        asked = []

        def answered(base, bank, requests):
            asked.extend((r.adapter, tiny.base.tokenizer.decode(r.prompt)) for r in requests)
            return [Completion("Arr", (), "stop") for _ in requests]

        def streamed(base, bank, requests):
            return [Piece(0, done.text, done) for done in answered(base, bank, requests)]

        given = iter([*lines, "/quit"])
        monkeypatch.setattr("builtins.input", lambda prompt: next(given))
        monkeypatch.setattr("kameleon.api.loaded_base.generate", answered)
        monkeypatch.setattr("kameleon.api.loaded_base.stream", streamed)
        status, out, err = on_tiny("chat", *words)
        assert status == 0, err
        return " ".join((out + err).split()), asked

    return chat


def opening(system):
    """How the tiny base's template begins a conversation."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"


def test_training_says_that_the_rows_share_a_system_prompt_and_keeps_it(on_tiny, write):
    rows = write("rows.jsonl", [STYLE] * 24)
    status, out, err = on_tiny("train", "--data", rows, "--name", "pirate", *FAST, "--json")
    assert status == 0, err
    assert f"all rows share a system prompt, which the adapter keeps: {STYLE}" in " ".join(err.split())
    assert json.loads(out)["system_prompt"] == STYLE
    shown = on_tiny("adapter", "show", "pirate", base=False)[1]
    assert f"system prompt {STYLE}" in " ".join(shown.split())
    mixed = write("mixed.jsonl", [STYLE, COOK] * 12)
    status, out, err = on_tiny("train", "--data", mixed, "--name", "both", *FAST)
    assert status == 0 and "which the adapter keeps" not in err and "system prompt" not in out
    assert Shelf().load("both").card.system_prompt is None


def test_training_says_why_no_system_prompt_is_kept(on_tiny, write):
    """One row without it is enough: the adapter would be asked without it, and nothing would say so."""
    status, _, err = on_tiny("train", "--data", write("rows.jsonl", [STYLE] * 15 + [None]), "--name", "mine", *FAST)
    said = " ".join(err.split())
    assert status == 0
    assert "15 of 16 (94%) rows have the system prompt" in said
    assert "but not row 16: an adapter keeps a system prompt only if all rows have it; this one keeps none" in said


@pytest.mark.parametrize(
    ("systems", "told", "untold"),
    [
        ([None] * 16, "16 rows have no system message: they get that of adapter pirate", "is not kept"),
        ([COOK] * 16, f"the system prompt of adapter pirate is not kept: {STYLE}", "no system message"),
        ([COOK] * 8 + [STYLE] * 8, f"the system prompt of adapter pirate is not kept: {STYLE}", "no system message"),
    ],
)
def test_going_on_says_what_became_of_the_adapters_system_prompt(systems, told, untold, on_tiny, write, shelved):
    words = ("--from", "pirate", "--name", "more", "--epochs", "1", "--rows-per-step", "8")
    status, _, err = on_tiny("train", "--data", write("rows.jsonl", systems), *words)
    said = " ".join(err.split())
    assert (status, told in said, untold in said) == (0, True, False)


def test_chat_answers_with_the_adapters_system_prompt_and_follows_a_switch(shelved, talk):
    said, asked = talk("Hi", "/use cook", "Hi", "/use plain", "Hi", "/use none", "Hi", words=("--adapter", "pirate"))
    assert [name for name, _ in asked] == ["pirate", "cook", "plain", None]
    for (_, prompt), system in zip(asked, (STYLE, COOK, DEFAULT, DEFAULT), strict=True):
        assert prompt.startswith(opening(system))
    assert said.count("system prompt of the adapter: ") == 2
    assert f"system prompt of the adapter: {STYLE}" in said


def test_a_system_prompt_that_a_person_sets_stays_when_the_adapter_changes(shelved, talk):
    lines = ["/system", "/system Be kind.", "Hi", "/use cook", "Hi", "/system none", "Hi", "/system"]
    lines += ["/system adapter", "Hi"]
    said, asked = talk(*lines, words=("--adapter", "pirate"))
    systems = ("Be kind.", "Be kind.", DEFAULT, COOK)
    assert all(prompt.startswith(opening(s)) for (_, prompt), s in zip(asked, systems, strict=True))
    assert f"system prompt of the adapter pirate: {STYLE}" in said
    assert "system prompt, given by you: Be kind." in said
    assert "no system prompt: the base's template puts its own there" in said
    assert f"system prompt of the adapter cook: {COOK}" in said


@pytest.mark.parametrize(
    ("word", "system"), [("Be kind.", "Be kind."), ("", ""), ("none", DEFAULT), ("adapter", STYLE)]
)
def test_chat_takes_a_system_prompt_from_its_command_line(word, system, shelved, talk):
    _, asked = talk("Hi", words=("--adapter", "pirate", "--system", word))
    assert asked[0][1].startswith(opening(system))


def test_compare_asks_each_with_its_own_system_prompt(shelved, talk):
    lines = ("/use cook", "/use plain", "/compare Hi", "/system Be kind.", "/compare Hi")
    _, asked = talk(*lines, words=("--adapter", "pirate"))
    own = {None: DEFAULT, "pirate": STYLE, "cook": COOK, "plain": DEFAULT}
    assert {name: prompt.startswith(opening(own[name])) for name, prompt in asked[:4]} == dict.fromkeys(own, True)
    assert all(prompt.startswith(opening("Be kind.")) for _, prompt in asked[4:]) and len(asked) == 8


def test_eval_gives_rows_without_a_system_message_the_adapters_own(on_tiny, shelved, write, tmp_path):
    rows, general = write("rows.jsonl", [None] * 6), write("general.jsonl", [None] * 3)
    words = ("--adapters", "pirate", "--adapters", "plain", "--general", general, "--json")
    status, out, err = on_tiny("eval", f"t={rows}", *words)
    assert status == 0, err
    assert f"system prompt of the adapter pirate, for test rows without one: {STYLE}" in " ".join(err.split())
    got = json.loads(out)
    with_it = json.loads(on_tiny("eval", f"t={write('same.jsonl', [STYLE] * 6)}", *words)[1])
    loss = {one["adapter"]: one["loss"] for one in got["rows"]}
    same = {one["adapter"]: one["loss"] for one in with_it["rows"]}
    assert loss["pirate"] == pytest.approx(same["pirate"], rel=1e-6)
    assert loss["base"] != pytest.approx(same["base"], rel=1e-6)
    assert loss["plain"] != pytest.approx(same["plain"], rel=1e-6)
    assert got["forgetting"] == with_it["forgetting"]


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("peft", "kameleon.json beside it"),
        ("ollama", "SYSTEM of the Modelfile"),
        ("gguf", "not in this format: give it to the program that answers"),
        ("mlx", "not in this format: give it to the program that answers"),
    ],
)
def test_an_export_says_whether_the_system_prompt_goes_along(to, told, on_tiny, shelved, tmp_path):
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    status, _, err = on_tiny("adapter", "export", "pirate", "--to", to, "--out", out)
    assert status == 0, err
    assert f"system prompt of the adapter ({told})" in " ".join(err.replace("in kameleon", "kameleon").split())
    if to == "peft":
        assert on_tiny("adapter", "import", out, "--name", "back", base=False)[0] == 0
        assert Shelf().load("back").card.system_prompt == STYLE


def test_a_merged_model_does_not_hold_it_and_that_is_told(on_tiny, shelved, tmp_path):
    status, out, err = on_tiny("adapter", "merge", "pirate", "--out", tmp_path / "merged")
    assert status == 0, err
    assert "not in the model, so give it to the program that answers" in " ".join(out.split())


def test_combining_adapters_of_different_system_prompts_is_told_in_one_line(on_tiny, shelved, recwarn):
    status, _, err = on_tiny("adapter", "combine", "pirate", "cook", "--name", "both", base=False)
    assert status == 0, err
    told = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1 and "different system prompts (pirate: its own, cook: its own)" in told[0]


def test_a_terminal_gets_no_control_codes_out_of_a_card(on_tiny, tiny, talk):
    evil = "Be \x1b[2J brief.\u202e"
    adapter = random_adapter(tiny.base, "evil")
    card = replace(adapter.card, system_prompt=evil, base_id="b\x1b[2J", base_fingerprint=adapter.card.base_fingerprint)
    Shelf().save(replace(adapter, card=card))
    shown = [on_tiny("adapter", *words, base=False)[1] for words in (("list",), ("show", "evil"), ("history", "evil"))]
    said, asked = talk("Hi", "/system", words=("--adapter", "evil"))
    assert not any(mark in text for text in (*shown, said) for mark in ("\x1b", "\u202e"))
    assert said.count("Be \\x1b[2J brief.\\u202e") == 2
    assert asked[0][1].startswith(opening(evil))
