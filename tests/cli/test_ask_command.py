"""kameleon ask: one answer on standard output, or JSON lines for a file of prompts."""

import io
import json
from dataclasses import replace

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf


@pytest.fixture
def piped(monkeypatch):
    def pipe(text):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return pipe


@pytest.fixture
def expected(tiny):
    """What the base or an adapter says, in three tokens."""

    def say(prompt, adapter=None, **settings):
        sampling = replace(tiny.base.sampling, max_tokens=3, seed=1, **settings)
        return tiny.generate([prompt], [adapter], sampling=sampling)[0].text

    return say


@pytest.fixture
def ask(on_tiny):
    def command(*words):
        return on_tiny("ask", "--max-tokens", "3", "--seed", "1", "--compute", "fp32", *words)

    return command


def test_the_answer_stands_alone_on_standard_output(ask, expected):
    status, out, err = ask("hello", "there", "--temperature", "0")
    assert (status, out) == (0, expected("hello there", temperature=0).lstrip() + "\n")
    assert "temperature 0" in err


def test_the_question_may_come_from_standard_input_alone_or_with_words(ask, expected, piped):
    piped("hello\n")
    assert ask()[1] == expected("hello").lstrip() + "\n"
    piped("hello\n")
    assert ask("Shorten:", "--stdin")[1] == expected("Shorten:\nhello").lstrip() + "\n"


def test_an_adapter_and_a_system_prompt_answer(ask, expected, tiny):
    Shelf().save(random_adapter(tiny.base, "law"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    status, out, _ = ask("hello", "--adapter", "law", "--system", "Be brief.", "--json")
    document = {"prompt": "hello", "answer": expected(messages, "law").strip(), "finish": "length"}
    assert (status, json.loads(out)) == (0, document)


def test_each_line_of_a_text_file_gets_a_json_line(ask, expected, tmp_path):
    (tmp_path / "q.txt").write_text("one\n\ntwo\n")
    status, out, err = ask("--file", tmp_path / "q.txt", "--temperature", "0")
    got = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(one["prompt"], one["answer"]) for one in got] == [
        (prompt, expected(prompt, temperature=0).strip()) for prompt in ("one", "two")
    ]
    assert "2 of 2 answers were cut at 3 tokens (--max-tokens)" in err


def test_rows_keep_their_fields_and_their_order(ask, tmp_path):
    rows = [{"id": 7, "prompt": "one"}, {"messages": [{"role": "user", "content": "two"}], "label": "x"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = [json.loads(line) for line in ask("--file", tmp_path / "q.jsonl")[1].splitlines()]
    assert [{k: v for k, v in one.items() if k not in ("answer", "finish")} for one in got] == rows


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "x"}, "row 1: expected `prompt` or `messages`, got question"),
        ({"prompt": "x", "system": "y"}, "row 1: system cannot be used here"),
        ({"prompt": "x", "finish": "y"}, "row 1: finish cannot be used here"),
        ({"messages": [{"role": "assistant", "content": "y"}]}, "row 1: the last message is the assistant's"),
        ("x", "row 1: expected an object with named fields, got str"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named_before_the_base_is_loaded(ask, tmp_path, monkeypatch, row, told):
    monkeypatch.setattr("kameleon.api.load", lambda *_, **__: pytest.fail("the base is loaded"))
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    status, out, err = ask("--file", tmp_path / "q.jsonl")
    assert (status, out) == (2, "")
    assert f"error: {told}" in err


def test_nothing_asked_and_two_things_asked_are_errors(ask, piped, tmp_path):
    piped(" \n")
    assert "error: nothing is asked" in ask()[2]
    assert "error: a question and --file are both given" in ask("hello", "--file", tmp_path / "q.txt")[2]
    assert "error: --system and --raw are both given" in ask("hello", "--raw", "--system", "x")[2]


def test_a_file_in_place_of_a_question_is_told_how_files_are_asked(ask, tmp_path):
    (tmp_path / "letter.txt").write_text("What is a contract?")
    status, out, err = ask(tmp_path / "letter.txt")
    assert status == 2 and out == "" and "letter.txt is a file: --file" in err and "kameleon ask <" in err
    assert ask("no-such-letter.txt")[0] == 0


def test_a_raw_prompt_is_continued(ask, tiny):
    sampling = replace(tiny.base.sampling, max_tokens=3, seed=1)
    assert ask("hello", "--raw")[1] == tiny.generate(["hello"], sampling=sampling, raw=True)[0].text.lstrip() + "\n"
