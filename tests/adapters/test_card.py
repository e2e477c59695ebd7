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


def test_a_card_keeps_the_system_prompt_in_format_2():
    text = Card(system_prompt=STYLE).to_json()
    assert json.loads(text)["format"] == 2
    assert Card.from_json(text).system_prompt == STYLE
    assert Card.from_json(Card(system_prompt="").to_json()).system_prompt == ""


def test_a_card_of_format_1_is_read_and_has_no_system_prompt():
    card = Card.from_json(OLD.read_text())
    written = json.loads(OLD.read_text())
    assert written["format"] == 1 and "system_prompt" not in written
    assert {**json.loads(json.dumps(asdict(card))), "system_prompt": None} == {
        **{key: value for key, value in written.items() if key not in ("format", "files")},
        "system_prompt": None,
    }


def test_an_adapter_with_a_card_of_format_1_is_loaded(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "old")
    write_adapter(adapter, tmp_path / "old")
    path = tmp_path / "old" / "kameleon.json"
    values = {**json.loads(path.read_text()), "format": 1}
    del values["system_prompt"]
    path.write_text(json.dumps(values))
    assert read_adapter(tmp_path / "old").fingerprint == adapter.fingerprint


@pytest.mark.parametrize("number", [3, 99])
def test_a_card_of_a_newer_format_says_which_and_to_upgrade(number):
    told = rf"is of format {number}, from a newer Kameleon; this one reads formats 1 to 2: upgrade Kameleon"
    with pytest.raises(AdapterFileError, match=told):
        Card.from_json(of_format(number, something_new=1))


@pytest.mark.parametrize("number", [None, True, "2", 2.0, 0, -1, [2]])
def test_a_format_that_is_no_number_of_one_is_refused(number):
    with pytest.raises(AdapterFileError, match=r"has format = .*; it must be a number from 1 to 2"):
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
