"""Files to records: every format, and every way in which a file can be broken."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kameleon import data
from kameleon.data import Record
from kameleon.errors import DataError

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "ü 漢", "completion": 'c\nd, "e"'}]
FIELDS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)


def read_records(*paths):
    return list(data.read_records(*paths))


def values(path):
    records = read_records(path)
    assert all(record.fault is None for record in records)
    return [record.value for record in records]


def faults(path):
    return {record.number: record.fault for record in read_records(path) if record.fault}


@given(rows=st.lists(FIELDS, max_size=5), gap=st.sampled_from(["\n", "\r\n", "\n\n", "\r\n \r\n"]), raw=st.booleans())
def test_jsonl_gives_back_every_row_with_its_line(tmp_path_factory, rows, gap, raw):
    path = tmp_path_factory.mktemp("j") / "rows.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=not raw) + gap for row in rows)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    lines = 1 + gap.count("\n") - 1
    assert read_records(path) == [Record(1 + i * lines, row) for i, row in enumerate(rows)]


def test_a_line_separator_inside_a_string_is_not_a_new_row(write):
    row = {"text": "one\u2028two\x85three"}
    assert values(write(json.dumps(row, ensure_ascii=False).encode())) == [row]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_the_rows(write, name):
    text = {
        "rows.jsonl": '{"prompt": "a", "completion": "b"}\r\n',
        "rows.json": '[\r\n{"prompt": "a", "completion": "b"}\r\n]',
        "rows.csv": "prompt,completion\r\na,b\r\n",
    }[name]
    assert values(write(b"\xef\xbb\xbf" + text.encode(), name)) == [{"prompt": "a", "completion": "b"}]


def test_empty_lines_are_passed_over_but_counted(write):
    records = read_records(write(b'\n{"text": "a"}\n\n  \t\n{"text": "b"}\n\n'))
    assert [(r.number, r.value["text"]) for r in records] == [(2, "a"), (5, "b")]


def test_an_empty_file_has_no_rows(write):
    assert read_records(write(b"")) == [] == read_records(write(b"", "rows.csv"))


def test_broken_json_names_its_line_and_spares_the_others(write):
    path = write(b'{"text": "a"}\n\n{"text": }\n{"text": "c"}\n')
    assert list(faults(path)) == [3]
    assert "broken JSON at column 10" in faults(path)[3] and "cut" not in faults(path)[3]
    assert [r.number for r in read_records(path)] == [1, 3, 4]


@given(at=st.integers(1, len(json.dumps(ROWS[0])) - 1))
def test_a_file_cut_in_its_last_line_says_so(tmp_path_factory, at):
    path = tmp_path_factory.mktemp("c") / "rows.jsonl"
    path.write_text(json.dumps(ROWS[1]) + "\n" + json.dumps(ROWS[0])[:at])
    assert list(faults(path)) == [2] and "cut short" in faults(path)[2]


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "3", "null"])
def test_a_line_that_is_no_object_is_a_fault(write, line):
    assert "expected an object" in faults(write(line.encode()))[1]


@pytest.mark.parametrize("line", ["[" * 200_000, '{"text": ' + "1" * 5000 + "}"], ids=["deep", "huge number"])
def test_json_that_python_will_not_read_is_a_fault_of_its_line(write, line):
    assert list(faults(write(f'{{"text": "a"}}\n{line}\n'.encode()))) == [2]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "with a byte order mark"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_text_that_is_not_utf8_names_its_line(write, name, mark):
    with pytest.raises(DataError, match=r"line 3: not UTF-8"):
        read_records(write(mark + b"{}\n{}\n\xe9{}\n{}\n", name))


def test_a_json_list_gives_its_rows(write):
    assert read_records(write(json.dumps(ROWS).encode(), "rows.json")) == [Record(1, ROWS[0]), Record(2, ROWS[1])]


def test_a_broken_json_file_names_line_and_column(write):
    with pytest.raises(DataError, match=r"line 2, column 1: broken JSON"):
        read_records(write(b'[{"text": "a"},\n', "rows.json"))


def test_json_that_is_neither_a_list_nor_lines_is_refused(write):
    with pytest.raises(
        DataError, match="holds one object with data, split; expected a list of rows, or one object a line"
    ):
        read_records(write(b'{\n"data": [], "split": "train"}', "rows.json"))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_objects_over_several_lines_are_one_error_that_says_what_to_do(write, name):
    text = "\n".join(json.dumps(row, indent=1) for row in ROWS * 30)
    with pytest.raises(
        DataError, match=r"line 5, column 1: broken JSON: a second object; write each object in one line"
    ):
        read_records(write(text.encode(), name))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.JSONL", "rows.ndjson", "rows.Json"])
def test_the_content_of_a_json_file_says_whether_it_is_a_list_or_lines(write, name):
    lines = "\n".join(json.dumps(row) for row in ROWS)
    for text in (lines, json.dumps(ROWS), json.dumps(ROWS, indent=1)):
        assert values(write(text.encode(), name)) == ROWS


def test_a_bad_line_of_json_lines_is_a_fault_of_that_line_in_a_json_file_too(write):
    assert list(faults(write(b'{"text": "a"}\n{"text": \n{"text": "b"}\n', "rows.json"))) == [2]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("text", ["prompt,completion\na,b\nc,d\n", "<html>\n", "\0\0\0\0", "Dear Sir,\n{}\n"])
def test_a_file_without_json_is_one_error(write, name, text):
    with pytest.raises(DataError, match=r"rows.jsonl? holds no JSON: it begins with .*a table ends in \.csv"):
        read_records(write(text.encode(), name))


def test_an_entry_of_a_json_list_that_is_no_object_is_a_fault(write):
    assert list(faults(write(b'[{"text": "a"}, "b"]', "rows.json"))) == [2]


def test_parquet_gives_its_rows_without_missing_values(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "content": "a"}], "text": None}, {"messages": None, "text": "b"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert values(path) == [{"messages": rows[0]["messages"]}, {"text": "b"}]


def test_parquet_gives_objects_without_the_fields_that_only_other_rows_have(tmp_path):
    """Arrow gives each object of a column the fields of all. Nulls in lists and in JSON text were written."""
    rows = [
        {
            "messages": [
                {"role": "assistant", "calls": [{"name": "send", "arguments": {"to": "A", "ccs": ["B", None]}}]}
            ]
        },
        {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"properties": {"zone": {"type": "string"}}}]},
        {
            "messages": [{"role": "assistant", "calls": [{"name": "clock", "arguments": {"zone": "B"}}]}],
            "text": "[null]",
        },
    ]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _schema_of(rows)), path)
    assert [record.value for record in read_records(path)] == rows


def test_a_map_of_parquet_is_an_object(tmp_path):
    arguments = pyarrow.array([[("zone", "B"), ("at", None)]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "arguments": arguments}), tmp_path / "rows.parquet")
    (record,) = read_records(tmp_path / "rows.parquet")
    assert record.value == {"text": "a", "arguments": {"zone": "B", "at": None}}


def _schema_of(rows):
    return pyarrow.unify_schemas(
        [pyarrow.Table.from_pylist([{key: row[key]}]).schema for row in rows for key in row],
        promote_options="permissive",
    )


def test_parquet_that_python_will_not_read_is_a_data_error(tmp_path):
    path = tmp_path / "rows.parquet"
    places, letters = pyarrow.py_buffer(bytes(4) + b"\1" + bytes(3)), pyarrow.py_buffer(b"\xff")
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, places, letters])
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path)
    with pytest.raises(DataError, match=r"rows\.parquet holds what Python does not read: 'utf-8' codec"):
        read_records(path)


def test_a_cut_parquet_file_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        read_records(path)


def test_rows_of_several_parts_are_read_in_order_and_counted_on(write):
    first, second = write(b'{"text": "a"}\n\n{"text": "b"\n', "1.jsonl"), write(b'[{"text": "c"}]', "2.json")
    got = read_records(first, second)
    assert [(r.number, r.value.get("text")) for r in got] == [(1, "a"), (3, None), (4, "c")]
    assert got[1].fault and got[:2] == read_records(first)
