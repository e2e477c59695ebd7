"""kameleon eval: scores, and which adapters and test sets it takes."""

import json
from dataclasses import replace

import pytest
from fakes import random_adapter

from kameleon.adapters import Card, Shelf
from kameleon.settings import Sampling


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("law/test.jsonl", "code/test.jsonl"), "'test' names several test sets; tell them apart as NAME=FILE"),
        (("a=law.jsonl", "a=code.jsonl"), "'a' names several test sets"),
        (("law.jsonl", "--rows", "-1"), "rows is -1; it must be 0 (all) or more"),
    ],
)
def test_eval_refuses_what_would_give_no_score_or_two_in_one_place(on_tiny, words, told):
    status, out, err = on_tiny("eval", *words)
    assert (status, out) == (2, "")
    assert told in err


def test_eval_compares_whole_answers_where_two_begin_alike_and_says_so(on_tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{i}?", "completion": ("yes", "yes, but", "no")[i % 3]} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    (score,) = json.loads(on_tiny("eval", path, "--json")[1])["rows"]
    assert score["choice_by"] == "whole_answer"
    quoted = f"{score['choice_accuracy']:.3f} choice whole ({score['choice_accuracy_per_byte']:.3f}), "
    shown = " ".join(on_tiny("eval", path)[1].split())
    assert quoted in shown
    assert "choice whole: by the log-probability of whole answers, in brackets by that per byte" in shown


def test_eval_of_the_shelf_leaves_adapters_of_other_bases_out_and_says_so(on_tiny, rows, tiny):
    mine = random_adapter(tiny.base, "mine")
    Shelf().save(mine)
    Shelf().save(replace(mine, name="foreign", card=Card(base_id="other", base_fingerprint="sha256:0")))
    status, out, err = on_tiny("eval", rows, "--rows", "2", "--json")
    assert status == 0, err
    assert [score["adapter"] for score in json.loads(out)["rows"]] == ["base", "mine"]
    assert "left out: adapter 'foreign' was trained on other" in err
    status, out, err = on_tiny("eval", rows, "--adapters", "foreign")
    assert (status, out) == (2, "")
    assert "error: adapter 'foreign' was trained on other" in err


def test_a_few_answers_stand_side_by_side_and_the_columns_are_explained(on_tiny, rows, tiny, monkeypatch):
    Shelf().save(random_adapter(tiny.base, "mine"))
    words = ("eval", f"numbers={rows}", "--rows", "4", "--answers", "2", "--compute", "fp32")
    (first, second) = json.loads(on_tiny(*words, "--json")[1])["answers"]["numbers"]
    sampling = Sampling(max_tokens=48)
    for row in (first, second):
        said = tiny.generate([row["question"]] * 2, [None, "mine"], sampling=sampling)
        assert row["answers"] == {"base": said[0].text.strip(), "mine": said[1].text.strip()}
        assert row["right"] == str(int(row["question"].split()[-1][:-1]) + 1)
    out = on_tiny(*words)[1]
    assert "numbers: what each answers, a sample of 2 of 4 rows" in out and first["question"] in " ".join(out.split())
    assert "first number: share of right rows" in out and "second number: bits per byte" in out


@pytest.mark.filterwarnings("default")
def test_fields_of_a_test_set_that_are_not_read_are_told(on_tiny, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(n), "completion": "x", "sytem": "S"}) + "\n" for n in range(3)))
    err = " ".join(on_tiny("eval", path, "--answers", "0")[2].split())
    assert "test.jsonl: fields that are not read" in err and "'sytem' in 3 rows (did you mean 'system'?)" in err


def test_no_answers_are_shown_where_none_are_wanted(on_tiny, rows):
    document = json.loads(on_tiny("eval", rows, "--rows", "2", "--answers", "0", "--json")[1])
    assert document["answers"] == {"rows": []}


@pytest.mark.parametrize(
    ("words", "told"),
    [(("absent.jsonl",), "error: there is no file absent.jsonl"), (("--adapters", "lew"), "error: no adapter 'lew'")],
)
def test_what_is_absent_is_told_before_the_base_is_loaded(on_tiny, rows, monkeypatch, words, told):
    monkeypatch.setattr("kameleon.api.load", lambda *_, **__: pytest.fail("the base is loaded"))
    assert on_tiny("eval", rows, *words)[2].startswith(told)
