"""Spreadsheets' CSV and TSV: separators, code pages, names of columns, empty cells and row numbers."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kameleon import Reading, data
from kameleon.data import Record
from kameleon.errors import DataError


def read_records(path, **reading):
    return list(data.read_records(path, reading=Reading(**reading)))


def values(path, **reading):
    records = read_records(path, **reading)
    assert all(record.fault is None for record in records)
    return [record.value for record in records]


def faults(path):
    return {record.number: record.fault for record in read_records(path) if record.fault}


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip)


@given(cells=st.lists(st.tuples(CELL, CELL), max_size=4))
def test_csv_gives_back_every_cell_with_quotes_commas_and_newlines(tmp_path_factory, cells):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("prompt", "completion"), *cells])
    path = tmp_path_factory.mktemp("v") / "rows.csv"
    path.write_bytes(out.getvalue().encode())
    assert values(path) == [{"prompt": p, "completion": c} for p, c in cells]


def test_a_csv_row_with_too_few_or_too_many_fields_is_a_fault(write):
    found = faults(write(b"prompt,completion\na,b\nc\nd,e,f\n", "rows.csv"))
    assert list(found) == [3, 4] and all(
        "another number of fields than the header (2)" in fault for fault in found.values()
    )


def test_a_csv_cell_may_be_long(write):
    (record,) = read_records(write(b"prompt,completion\na," + b"b" * 200_000 + b"\n", "rows.csv"))
    assert record.fault is None
    assert len(record.value["completion"]) == 200_000


def test_a_csv_file_cut_inside_quotes_is_a_fault(write):
    found = faults(write(b'prompt,completion\na,b\nc,"d\ne', "rows.csv"))
    assert list(found) == [3] and "a quotation mark is not closed before the end of the file, line 4" in found[3]


def test_a_row_with_wrong_quotes_spares_the_rows_below_it(write):
    found = read_records(write(b'prompt,completion\n"a" b,c\nd,e\n', "rows.csv"))
    assert found[0].number == 2 and "a quotation mark inside a quoted cell is written twice" in found[0].fault
    assert found[1:] == [Record(3, {"prompt": "d", "completion": "e"})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.CSV"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_each_usual_separator_is_found_under_any_suffix(write, separator, name, encoding):
    text = io.StringIO(newline="")
    rows = [("Prompt", "Completion"), ("a, b", "c; d\te|f"), ("Zażółć\ngęślą", 'jaźń "x", y; z')]
    csv.writer(text, delimiter=separator).writerows(rows)
    got = values(write(text.getvalue().encode(encoding), name))
    assert got == [{"prompt": p, "completion": c} for p, c in rows[1:]]


def test_a_single_column_of_text_may_hold_commas(write):
    assert values(write(b"text\r\nOne, two.\r\nThree, four, five.\r\n", "rows.csv")) == [
        {"text": "One, two."},
        {"text": "Three, four, five."},
    ]


def test_excels_line_with_the_separator_is_no_row(write):
    path = write(b"sep=;\r\nprompt;completion\r\na,b;c\r\n;\r\n", "rows.csv")
    assert [(record.number, record.value) for record in read_records(path)] == [
        (2, {"prompt": "a,b", "completion": "c"}),
        (3, {}),
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("Question,Answer", "'Question' as prompt and 'Answer' as completion"),
        ("PYTANIE ,Odpowiedź", "'PYTANIE ' as prompt and 'Odpowiedź' as completion"),
        ("Frage,Antwort", "'Frage' as prompt"),
        ("Pregunta,Respuesta", "'Respuesta' as completion"),
        ("Question,Réponse", "'Réponse' as completion"),
        ("prompt,Response", "'Response' as completion"),
    ],
)
def test_names_of_columns_in_other_words_are_understood_and_told(write, names, told):
    with pytest.warns(UserWarning, match=f"rows.csv: it is read with .*{told}"):
        assert values(write(f"{names}\na,b\n".encode(), "rows.csv")) == [{"prompt": "a", "completion": "b"}]


@pytest.mark.parametrize("names", ["Prompt,Completion", "PROMPT,completion", " prompt , completion "])
def test_the_case_of_a_column_does_not_matter_and_is_no_guess(write, names):
    assert values(write(f"{names}\na,b\n".encode(), "rows.csv")) == [{"prompt": "a", "completion": "b"}]


def test_instruction_and_a_response_are_alpaca(write):
    with pytest.warns(UserWarning, match="'response' as output"):
        (value,) = values(write(b"Instruction,Input,response\na,b,c\n", "rows.csv"))
    assert value == {"instruction": "a", "input": "b", "output": "c"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_columns_and_fields_can_be_chosen_by_name(write, name):
    held = {"rows.csv": b"Id,Text,Label,prompt\n1,a,b,c\n", "rows.jsonl": b'{"Id": "1", "Text": "a", "Label": "b"}'}
    path = write(held[name], name)
    assert values(path, prompt_column="Text", completion_column="label") == [
        {"Id": "1", "prompt": "a", "completion": "b"}
    ]
    (record,) = read_records(path, prompt_column="Txt", completion_column="Label")
    assert "there is no 'Txt' (`prompt_column=`); it has 'Id', 'Text', 'Label'" in record.fault
    assert record.fault.endswith("did you mean 'Text'?")


@pytest.mark.parametrize("text", ['{"prompt": "a", "completion": "b"}\n' * 2, '[\n {"text": "a"}\n]', '{ "text": "a"}'])
def test_json_under_the_name_of_a_table_is_told(write, text):
    with pytest.raises(DataError, match=r"rows\.csv holds JSON, not a table: .* ends in \.jsonl"):
        list(read_records(write(text.encode(), "rows.csv")))


def test_columns_that_nobody_knows_are_one_fault_that_says_what_to_do(write):
    found = faults(write(b"Nr;Uwagi\n" + b"1;a\n" * 67, "rows.csv"))
    assert list(found) == [1] and found[1].startswith("its columns are 'Nr', 'Uwagi'; expected prompt and completion")
    assert "`reading=Reading(prompt_column=NAME" in found[1]


def test_of_two_columns_that_could_be_the_answer_none_is_taken(write):
    found = faults(write(b"question,answer,response\na,b,c\n", "rows.csv"))
    assert (
        "'answer' and 'response' could both be the completion: name one with `reading=Reading(completion_column=NAME)`"
        in found[1]
    )


def test_two_columns_of_one_name_are_refused(write):
    with pytest.raises(DataError, match="two columns are named 'answer'"):
        read_records(write(b"question,answer,answer\na,b,c\n", "rows.csv"))


def test_rows_are_numbered_as_a_spreadsheet_shows_them(write):
    text = 'prompt,completion\r\n"a\nb\r\nc",d\r\n\r\n"e",\r\nf,g,h\r\n'
    records = read_records(write(text.encode(), "rows.csv"))
    assert [(record.number, bool(record.fault), record.empty) for record in records] == [
        (2, False, False),
        (4, True, True),
        (5, True, False),
    ]
    assert records[1].fault == "empty cell ('completion')"


def test_empty_columns_beside_the_table_are_no_columns(write):
    path = write(b"prompt;completion;;\na;b;;\nc;d;;x\n", "rows.csv")
    assert read_records(path)[0] == Record(2, {"prompt": "a", "completion": "b"})
    assert "another number of fields" in faults(path)[3]


POLISH = "Pytanie;Odpowiedź\nJak się masz?;Dobrze, dziękuję.\nIle dni urlopu?;Dwadzieścia sześć.\n"
FRENCH = "Question;Réponse\nOù est la gare?;Elle est là-bas, près de l'hôtel.\n"
SPANISH = "Pregunta;Respuesta\n¿Cuántos años tienes?;Veinte años, señor.\n"
GERMAN = "Frage;Antwort\nWie heißt du?;Schön: Jürgen Groß.\n"
CZECH = "prompt;completion\nJak se máš?;Děkuji, dobře. Čtyři týdny.\n"
DANISH = "prompt;completion\nHvordan går det?;Godt, på søndag spiser vi brød.\n"


@pytest.mark.filterwarnings("ignore:.*it is read with")
@pytest.mark.parametrize(
    ("text", "page", "name"),
    [
        (POLISH, "cp1250", "Windows-1250"),
        (CZECH, "cp1250", "Windows-1250"),
        (FRENCH, "cp1252", "Windows-1252"),
        (SPANISH, "cp1252", "Windows-1252"),
        (GERMAN, "cp1252", "Windows-1252"),
        (DANISH, "cp1252", "Windows-1252"),
    ],
    ids=["Polish", "Czech", "French", "Spanish", "German", "Danish"],
)
def test_a_code_page_of_windows_is_read_as_it_was_written_and_told(write, text, page, name):
    with pytest.warns(UserWarning, match=f"rows.csv is not UTF-8: it is read as {name} .*, for example “"):
        got = values(write(text.encode(page), "rows.csv"))
    assert [tuple(row.values()) for row in got] == [tuple(line.split(";")) for line in text.splitlines()[1:]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("prompt,completion\nż,ó\n".encode() + b"ab\xe9,c\n" + "ą,ę\nć,ś\n".encode(), "line 3: not UTF-8"),
        (b"\xef\xbb\xbfprompt,completion\n\xe9,a\n", "line 2: not UTF-8"),
        (b"prompt,completion\n\x81\x83,a\n", "line 2: not UTF-8"),
        (b"PK\3\4\xff\0", "is a spreadsheet or an archive in spite of its name"),
        ("prompt,completion\na,b\n".encode("utf-16-le"), "line 1: it holds a zero byte"),
    ],
    ids=["one broken place", "a byte order mark", "no code page", "a spreadsheet", "no byte order mark"],
)
def test_a_table_that_is_no_whole_text_is_refused_with_its_line(write, content, told):
    with pytest.raises(DataError, match=told):
        read_records(write(content, "rows.csv"))
