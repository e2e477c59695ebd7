"""kameleon data check: the mask, bad rows and observations, for people and for scripts."""

import json

import pytest
from data.chat_templates import CHATML, make_tokenizer

from kameleon.adapters import Shelf
from kameleon.cli import data
from kameleon.data import Record, encode_row, make_row
from kameleon.text import ChatTemplate


def test_rows_that_stand_for_a_file_come_from_all_of_it(on_tiny, tmp_path, monkeypatch):
    from kameleon.api import LoadedBase

    path, sets = tmp_path / "sorted.jsonl", []
    made = [{"prompt": f"{'first' if i < 30 else 'second'} {i}", "completion": "yes"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    made_of = LoadedBase.test_set
    monkeypatch.setattr(LoadedBase, "test_set", lambda *args, **more: sets.append(args[2]) or made_of(*args, **more))
    assert on_tiny("eval", path, "--rows", "4")[0] == 0
    assert [example.row > 30 for example in sets[0].examples] == [False, False, True, True]
    shown = on_tiny("data", "check", path, "--rows", "4")[1]
    parts = [int(line.split()[1]) > 30 for line in shown.splitlines() if line.startswith("row ")]
    assert parts == [False, False, True, True]


def test_data_check_shows_the_mask_counts_and_names_bad_rows(on_tiny, rows):
    status, out, _ = on_tiny("data", "check", rows, "--json")
    assert status == 0
    document = json.loads(out)
    assert document["rows"] == 30
    assert {fault["reason"] for fault in document["faults"]} == {f"duplicate of row {n}" for n in range(1, 10)}
    with rows.open("a") as file:
        file.write('{"prompt": "x", "completion": ""}\n{"prompt": "cut')
    status, out, _ = on_tiny("data", "check", rows)
    assert status == 1
    assert "empty answer" in out
    assert "broken JSON" in out
    status, _, err = on_tiny("train", "--data", rows, "--name", "count")
    assert status == 2
    assert "row 31: empty answer" in " ".join(err.split())


def test_columns_with_other_names_are_told_once_and_what_to_do(on_tiny, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("nr,notes\n" + "".join(f"q{n},a{n}\n" for n in range(60)))
    status, out, _ = on_tiny("data", "check", path)
    assert status == 1
    assert out.count("its columns are 'nr', 'notes'") == 1
    status, _, err = on_tiny("train", "--data", path, "--name", "x")
    told = " ".join(err.split())
    assert status == 2
    assert "row 1: its columns are 'nr', 'notes'; expected prompt and completion" in told
    assert told.count("its columns") == 1 and "--prompt-column NAME" in told


@pytest.fixture
def export(tmp_path):
    """What Excel writes on a Polish Windows; one answer is empty."""
    path = tmp_path / "pytania.csv"
    lines = ["Pytanie;Odpowiedź", *(f"Ile to {n} + {n}, proszę?;Będzie {2 * n}." for n in range(9)), "Dlaczego?;"]
    path.write_bytes("\r\n".join([*lines, ""]).encode("cp1250"))
    return path


@pytest.mark.filterwarnings("always::UserWarning")
def test_an_export_of_excel_is_checked_and_trained_as_it_is(on_tiny, export):
    told = ("is not UTF-8: it is read as Windows-1250", "'Pytanie' as prompt and 'Odpowiedź' as completion")
    left_out = "1 of 10 rows are left out. row 11: empty cell ('Odpowiedź')"
    status, out, err = on_tiny("data", "check", export)
    assert status == 0 and all(one in err for one in told)
    assert "9 rows, " in out and "rows left out: 1" in out and "row left out" in out
    found = json.loads(on_tiny("data", "check", export, "--json")[1])
    wanted = {"row": 11, "reason": "empty cell ('Odpowiedź')", "fatal": False, "skipped": True}
    assert found["skipped"] == 1 and wanted in found["faults"]
    status, _, err = on_tiny("train", "--data", export, "--name", "sums", "--rank", "2", "--epochs", "1")
    assert status == 0 and left_out in err and all(one in err for one in told)
    data = Shelf().load("sums").card.data
    assert (data["rows"], data["skipped"]) == (9, 1)


@pytest.mark.filterwarnings("ignore:.*held-out rows")
def test_columns_can_be_named_for_every_command_that_reads_rows(on_tiny, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,y\nq1,a1\nq2,a2\n")
    columns = ("--completion-column", "Y", "--prompt-column")
    assert on_tiny("data", "check", path, "--test", path, *columns, "x")[0] == 0
    words = ("train", "--data", path, "--held-out", path, "--name", "x", "--rank", "2", "--epochs", "1")
    assert on_tiny(*words, *columns, "x")[0] == 0
    assert Shelf().load("x").card.data["columns"] == ["x", "Y"]
    for words in (("plan", "--data", path), ("eval", path), ("train", "--name", "y", "--data", path)):
        status, _, err = on_tiny(*words, *columns, "z")
        assert status == 2 and "row 1: there is no 'z' (--prompt-column); it has 'x', 'y'" in err


@pytest.mark.filterwarnings("always::UserWarning")
def test_bad_rows_stop_a_command_unless_they_are_to_be_skipped(on_tiny, rows):
    with rows.open("a") as file:
        file.write('{"prompt": "x", "completion": ""}\n{"prompt": "cut')
    status, _, err = on_tiny("eval", rows)
    assert status == 2 and "to go on without bad rows: --skip-bad" in err
    left_out = "2 of 32 rows are left out. row 31: empty answer ('completion'); row 32: broken JSON"
    for words in (("eval",), ("train", "--name", "x", "--rank", "2", "--epochs", "1", "--data")):
        status, _, err = on_tiny(*words, rows, "--skip-bad")
        assert status == 0 and left_out in err
    status, out, _ = on_tiny("data", "check", rows, "--skip-bad", "--json")
    assert (status, json.loads(out)["skipped"]) == (0, 2)
    rows.write_text('{"prompt": "cut')
    status, _, err = on_tiny("train", "--name", "y", "--data", rows, "--skip-bad")
    assert status == 2 and "no row is left. row 1: broken JSON" in err


def test_half_of_a_surrogate_pair_in_a_row_is_no_traceback(on_tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"\\ud800": 1}\n')
    status, out, _ = on_tiny("data", "check", path, "--json")
    assert status == 1
    assert "its fields are '\\ud800'" in json.loads(out.encode())["faults"][0]["reason"]


def test_data_check_names_the_row_of_another_answer_that_is_no_text(on_tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "c", "also": ["\\ud800"]}\n')
    status, out, _ = on_tiny("data", "check", path, "--json")
    (fault,) = json.loads(out)["faults"]
    assert (status, fault["row"], fault["fatal"]) == (1, 2, True)
    status, _, err = on_tiny("train", "--data", path, "--name", "x")
    assert status == 2
    assert "row 2: it holds text that is not UTF-8" in " ".join(err.split())


def test_data_check_names_a_row_longer_than_the_base_takes_and_fields_that_are_not_read(on_tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b " * 300, "source": "a book"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = on_tiny("data", "check", path, "--json")
    told = json.loads(out)
    assert status == 1
    assert [(fault["row"], fault["fatal"]) for fault in told["faults"]] == [(2, True)]
    assert told["faults"][0]["reason"].startswith("longer than the base's context of 256 tokens")
    assert any(
        "not read, so nothing of them is learned: 'source' in 1 row" in one["text"] for one in told["observations"]
    )
    assert on_tiny("data", "check", path, "--max-row-tokens", "256")[0] == 0


def test_data_check_refuses_negative_numbers_and_names_the_broken_row_of_a_test_set(on_tiny, rows, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "cut')
    for words, wanted in (
        (("--rows", "-1"), "rows is -1; it must be 0 (none) or more"),
        (("--max-row-tokens", "-1"), "max_row_tokens is -1; it must be from 8 to"),
        (("--test", test), "test.jsonl: row 2: broken JSON"),
    ):
        status, out, err = on_tiny("data", "check", rows, *words)
        assert (status, out) == (2, "")
        assert wanted in err


def test_data_check_tells_what_the_file_says_as_a_whole(on_tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{i % 8}?", "completion": "yes" if i else "no"} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    status, out, _ = on_tiny("data", "check", path, "--test", path, "--json")
    found = {one["kind"]: one for one in json.loads(out)["observations"]}
    assert status == 0
    assert set(found) == {"contradictory_rows", "dominant_answer", "test_overlap", "too_few"}
    assert found["contradictory_rows"]["rows"] == [1, 9]
    out = " ".join(on_tiny("data", "check", path, "--test", path)[1].split())
    section = out[out.index("about the file") :]
    assert "- 8 of 9 (89%) rows have the answer “yes”" in section
    assert "- 9 of 9 (100%) rows of the test set are learned" in section
    assert f"- {found['too_few']['text']}" in section
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": f"{i}!"}) + "\n" for i in range(120)))
    assert json.loads(on_tiny("data", "check", path, "--json")[1])["observations"] == []


def test_data_check_tells_once_which_of_several_kinds_was_taken(on_tiny, tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": f"{i}?", "output": "Ho", "text": f"{i}? Ho"} for i in range(3)]))
    status, out, _ = on_tiny("data", "check", path)
    assert status == 0
    told = "3 rows are written in several ways: instruction was taken, text left aside"
    assert " ".join(out.split()).count(told) == 1


@pytest.mark.parametrize(
    ("name", "held"), [("rows.jsonl", ""), ("rows.csv", "prompt,completion\n"), ("rows.json", "[]")]
)
def test_an_empty_file_is_told_as_empty_by_all_that_read_rows(on_tiny, tmp_path, rows, name, held):
    path = tmp_path / "none" / name
    path.parent.mkdir()
    path.write_text(held)
    status, out, err = on_tiny("data", "check", path, "--json")
    (told,) = json.loads(out)["observations"]
    assert (status, told["kind"], err) == (1, "empty", "")
    assert told["text"].startswith(f"{path} is empty: ")
    assert f"{name}isempty:" in "".join(on_tiny("data", "check", path)[1].split())  # a long path is folded
    commands = [("train", "--data", path, "--name", "x"), ("plan", "--data", path), ("eval", path)]
    for words in [*commands, ("data", "check", rows, "--test", path)]:
        status, out, err = on_tiny(*words)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == f"error: {told['text']}"


def test_the_document_for_scripts_holds_counts_lengths_kinds_and_faults(on_tiny, tmp_path):
    path = tmp_path / "alpaca.json"
    rows = [{"instruction": f"{i}?", "output": "Ho", "text": f"{i}? Ho"} for i in range(3)]
    path.write_text(json.dumps([*rows, {"prompt": "a", "completion": ""}]))
    status, out, _ = on_tiny("data", "check", path, "--json")
    found = json.loads(out)
    assert status == 1
    assert (found["rows"], found["split"]) == (3, 0)
    assert found["row_tokens"].keys() == {"shortest", "median", "p90", "longest"}
    assert found["tokens"] == 3 * found["row_tokens"]["median"] > found["trained_tokens"] > 0
    assert found["mixed"] == [{"taken": "instruction", "left": ["text"], "rows": 3}]
    assert found["faults"] == [{"row": 4, "reason": "empty answer ('completion')", "fatal": True, "skipped": False}]


def test_the_coloured_mask_marks_the_learned_tokens_and_no_others():
    template = ChatTemplate(make_tokenizer(CHATML))
    shown = data._mask(encode_row(make_row(Record(1, {"prompt": "Hi", "completion": "Yo"})), template), template)
    green = [shown.plain[s.start : s.end] for s in shown.spans if "green" in str(s.style)]
    grey = [shown.plain[s.start : s.end] for s in shown.spans if "bright_black" in str(s.style)]
    assert green == ["Y", "o", "<|im_end|>"]
    assert "".join(grey).replace("⏎", "") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n"
    assert shown.plain.endswith("│⏎\n│Y┃o┃<|im_end|>┃⏎\n│"), "which tokens they are shows without colour too"
    assert shown.plain.replace("│", "").replace("┃", "").replace("⏎", "") == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
