"""The home's format: an older home is migrated and loses nothing, a newer one is refused."""

import json

import pytest
from fakes import random_adapter

from kameleon import home
from kameleon.adapters import Shelf
from kameleon.bases import reference_of
from kameleon.errors import SettingError
from kameleon.home_format import open_home


@pytest.fixture
def old(tiny, tiny_folder):
    """A home of format 0: the card of its adapter holds paths. Returns the card's file and its bytes."""
    Shelf().save(random_adapter(tiny.base, "law"))
    card = Shelf().path("law") / "kameleon.json"
    values = json.loads(card.read_text())
    values |= {"format": 2, "base_id": str(tiny_folder), "data": {"path": "/home/jan/rows.jsonl", "rows": 3}}
    del values["base_hub_id"], values["base_licence"]
    card.write_text(json.dumps(values))
    (home.home() / "format").unlink(missing_ok=True)
    (home.bases_dir() / "places.json").unlink(missing_ok=True)
    return card, card.read_bytes()


def test_a_home_that_does_not_exist_is_not_made():
    open_home()
    assert not home.home().exists()


def test_a_home_of_format_0_is_migrated_and_what_changes_is_kept(old, tiny, tiny_folder):
    card, before = old
    open_home()
    assert (home.home() / "format").read_text() == "1\n"
    assert "/home/jan" not in card.read_text() and str(tiny_folder) not in card.read_text()
    kept = home.home() / "before-format-1" / card.relative_to(home.home())
    assert kept.read_bytes() == before
    assert Shelf().load("law").fingerprint == random_adapter(tiny.base, "law").fingerprint
    assert reference_of("tiny", tiny.base.fingerprint) == (str(tiny_folder), None)
    after = card.read_bytes()
    open_home()
    assert card.read_bytes() == after


def test_a_card_that_cannot_be_read_stays_as_it_is(old):
    card, _ = old
    card.write_text("{broken")
    open_home()
    assert card.read_text() == "{broken"
    assert home.is_current()


def test_a_home_that_cannot_be_written_is_refused_and_stays(old, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(SettingError, match=r"cannot be brought to format 1: .*No space left"):
        open_home()
    assert old[0].read_bytes() == old[1]
    assert not (home.home() / "format").exists()


@pytest.mark.parametrize(
    ("text", "told"), [("2\n", "has format 2, from a newer Kameleon"), ("x", "must hold a number")]
)
def test_a_newer_home_is_refused_with_what_to_do_and_nothing_changes(text, told, old, run):
    (home.home() / "format").write_text(text)
    before = sorted(home.home().rglob("*"))
    status, _, err = run("adapter", "list")
    assert (status, told in err) == (2, True)
    assert sorted(home.home().rglob("*")) == before
    assert run("--version")[0] == 0
