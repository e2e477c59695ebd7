"""The words of kameleon train: what may be left out, what is short, and what is an error before the base loads."""

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.home import runs_dir

FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "0.2")


@pytest.fixture
def unloadable(monkeypatch):
    """No base can be loaded: what is told was found before."""

    def load(*_, **__):
        raise AssertionError("the base is loaded")

    monkeypatch.setattr("kameleon.api.load", load)


def test_the_rows_need_no_flag_and_the_learning_rate_has_a_short_one(on_tiny, rows):
    status, _, err = on_tiny("train", rows, "--name", "short", *FAST, "--lr", "0.02")
    assert status == 0, err
    assert Shelf().load("short").card.recipe["learning_rate"] == 0.02
    assert "you chose: rank 2, learning_rate 0.02" in err
    assert "derived: " not in err and "hardly depends on the rank" not in err


def test_verbose_shows_every_setting_with_its_reason(on_tiny, rows):
    status, _, err = on_tiny("train", rows, "--name", "long", *FAST, "--verbose")
    text = " ".join(err.split())
    assert status == 0
    assert "you chose it" in text and "then the best learning rate hardly depends on the rank" in text


def test_a_value_given_with_from_counts_even_if_it_is_the_default(on_tiny, tiny, rows, unloadable):
    Shelf().save(random_adapter(tiny.base, "law", rank=2))
    status, _, err = on_tiny("train", rows, "--from", "law", "--name", "more", "--rank", "16")
    assert status == 2
    assert "error: adapter 'law', which the run goes on from, has rank 2, not 16" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--resume",), "error: nothing to resume: there is no "),
        (("--targets", "nose"), "error: unknown target nose; this base has q_proj"),
        (("--layers", "99"), "error: layers is 99; this base has 3"),
        (("--memory", "much"), "error: 'much' is not an amount of memory"),
        (("--held-out", "absent.jsonl"), "error: there is no file absent.jsonl"),
    ],
)
def test_what_cannot_be_is_told_before_the_base_is_loaded(on_tiny, rows, unloadable, words, told):
    status, out, err = on_tiny("train", rows, "--name", "x", *words)
    assert (status, out) == (2, "")
    assert err.startswith(told)


def test_an_unfinished_run_and_rows_without_an_answer_are_told_before_the_base_is_loaded(on_tiny, rows, unloadable):
    rows.write_text('{"prompt": "a"}\n')
    assert "row 1" in on_tiny("train", rows, "--name", "x")[2]
    folder = runs_dir() / "x"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").touch()
    status, _, err = on_tiny("train", rows, "--name", "x")
    assert status == 2 and "holds an unfinished run: --resume" in err
