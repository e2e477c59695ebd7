"""What a card keeps, over its formats: an old one is read, a newer one names itself, a broken one is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes import random_adapter

from kameleon.adapters import Card
from kameleon.adapters.arithmetic import combine, resize
from kameleon.adapters.formats import read_adapter, write_adapter
from kameleon.errors import AdapterFileError

OLD = Path(__file__).parent / "cards" / "format_1.json"
STYLE = 'You are a pirate.\n  Say "arr".'


def of_format(number, **values):
    """A card's text in that format."""
    return json.dumps({**json.loads(Card().to_json()), "format": number, **values})


def test_a_card_keeps_the_system_prompt():
    text = Card(system_prompt=STYLE).to_json()
    assert json.loads(text)["format"] == 3
    assert Card.from_json(text).system_prompt == STYLE
    assert Card.from_json(Card(system_prompt="").to_json()).system_prompt == ""


def test_a_card_of_format_1_is_read_and_has_no_system_prompt():
    card = Card.from_json(OLD.read_text())
    written = json.loads(OLD.read_text())
    assert written["format"] == 1 and "system_prompt" not in written
    added = {"system_prompt": None, "base_hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct", "base_licence": "Apache-2.0"}
    assert json.loads(json.dumps(asdict(card))) == {
        **{key: value for key, value in written.items() if key not in ("format", "files")},
        **added,
    }


def test_an_adapter_with_a_card_of_format_1_is_loaded(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "old")
    write_adapter(adapter, tmp_path / "old")
    path = tmp_path / "old" / "kameleon.json"
    values = {**json.loads(path.read_text()), "format": 1}
    del values["system_prompt"]
    path.write_text(json.dumps(values))
    assert read_adapter(tmp_path / "old").fingerprint == adapter.fingerprint


@pytest.mark.parametrize("number", [4, 99])
def test_a_card_of_a_newer_format_says_which_and_to_upgrade(number):
    told = rf"is of format {number}, from a newer Kameleon; this one reads formats 1 to 3: upgrade Kameleon"
    with pytest.raises(AdapterFileError, match=told):
        Card.from_json(of_format(number, something_new=1))


@pytest.mark.parametrize("number", [None, True, "2", 2.0, 0, -1, [2]])
def test_a_format_that_is_no_number_of_one_is_refused(number):
    with pytest.raises(AdapterFileError, match=r"has format = .*; it must be a number from 1 to 3"):
        Card.from_json(of_format(number))


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (["Be brief."], r"system_prompt = .*; it must be a str"),
        (5, r"system_prompt = .*; it must be a str"),
        ("\ud800", "not UTF-8"),
        ("x" * ((1 << 20) + 1), "has 1,048,577 characters; kameleon.json keeps at most 1,048,576"),
    ],
)
def test_a_system_prompt_of_a_wrong_kind_or_size_is_refused(prompt, told):
    with pytest.raises(AdapterFileError, match=told):
        Card.from_json(of_format(2, system_prompt=prompt))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/jan/models/tiny", "tiny"),
        ("/home/jan/models/tiny in nf4", "tiny in nf4"),
        ("~/models/tiny.gguf", "tiny.gguf"),
        ("../jan/tiny/", "tiny"),
        ("C:\\Users\\jan\\tiny", "tiny"),
        ("owner/name", "owner/name"),
        ("smollm2", "smollm2"),
        ("[/x]", "[/x]"),
    ],
)
def test_a_card_holds_no_folder_of_any_machine(path, name):
    for card in (
        Card(base_id=path, base_hub_id=path, data={"path": path, "rows": 3}),
        Card.from_json(of_format(2, base_id=path, base_hub_id=path, data={"path": path, "rows": 3})),
    ):
        assert (card.base_id, card.base_hub_id, card.data) == (name, name, {"path": name, "rows": 3})


def test_a_card_of_an_earlier_format_gets_the_hub_id_and_licence_that_its_base_has_in_the_catalogue():
    values = json.loads(of_format(2, base_id="smollm2"))
    del values["base_hub_id"], values["base_licence"]
    card = Card.from_json(json.dumps(values))
    assert (card.base_hub_id, card.base_licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0")
    assert Card.from_json(json.dumps({**values, "base_id": "owner/name in nf4"})).base_hub_id == "owner/name"
    assert Card.from_json(json.dumps({**values, "base_id": "tiny"})).base_hub_id is None


def test_arithmetic_keeps_what_is_known_of_the_base(tiny):
    one = random_adapter(tiny.base, "one")
    one = replace(one, card=replace(one.card, base_hub_id="owner/name", base_licence="mit"))
    card = resize(one, "small", rank=2)[0].card
    assert (card.base_hub_id, card.base_licence) == ("owner/name", "mit")


def with_prompt(adapter, prompt):
    return replace(adapter, card=replace(adapter.card, system_prompt=prompt))


def test_arithmetic_keeps_the_system_prompt_that_all_parents_share(tiny):
    one, two = (with_prompt(random_adapter(tiny.base, name, seed), STYLE) for seed, name in enumerate("ab"))
    assert combine([one, two], "both").card.system_prompt == STYLE
    assert resize(one, "small", rank=2)[0].card.system_prompt == STYLE


@pytest.mark.parametrize("other", [None, "", "Be brief."])
def test_arithmetic_drops_system_prompts_that_differ_and_says_so(other, tiny):
    one, two = random_adapter(tiny.base, "one", 1), random_adapter(tiny.base, "two", 2)
    with pytest.warns(UserWarning, match=r"different system prompts \(one: its own, two: .*\), so 'both' has none"):
        made = combine([with_prompt(one, STYLE), with_prompt(two, other)], "both")
    assert made.card.system_prompt is None
