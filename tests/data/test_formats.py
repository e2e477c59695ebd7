"""Files to records: every format, and every way in which a file can be broken."""

import csv
import importlib
import io
import json
import threading
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
from hub import Answering, oid
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from kameleon import data
from kameleon.data import Record, find_data, formats
from kameleon.errors import DataError

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "ü 漢", "completion": 'c\nd, "e"'}]
client = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx or its successor
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
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_text_that_is_not_utf8_names_its_line(write, name, mark):
    with pytest.raises(DataError, match=r"line 3: not UTF-8"):
        read_records(write(mark + b"{}\n{}\n\xe9{}\n{}\n", name))


def test_a_json_list_gives_its_rows(write):
    assert read_records(write(json.dumps(ROWS).encode(), "rows.json")) == [Record(1, ROWS[0]), Record(2, ROWS[1])]


def test_a_broken_json_file_names_line_and_column(write):
    with pytest.raises(DataError, match=r"line 2, column 1: broken JSON"):
        read_records(write(b'[{"text": "a"},\n', "rows.json"))


def test_json_that_is_not_a_list_is_refused(write):
    with pytest.raises(DataError, match="holds dict; expected a list"):
        read_records(write(b'{"text": "a"}', "rows.json"))


def test_an_entry_of_a_json_list_that_is_no_object_is_a_fault(write):
    assert list(faults(write(b'[{"text": "a"}, "b"]', "rows.json"))) == [2]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(cells=st.lists(st.tuples(CELL, CELL), max_size=4))
def test_csv_gives_back_every_cell_with_quotes_commas_and_newlines(tmp_path_factory, cells):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("prompt", "completion"), *cells])
    path = tmp_path_factory.mktemp("v") / "rows.csv"
    path.write_bytes(out.getvalue().encode())
    assert values(path) == [{"prompt": p, "completion": c} for p, c in cells]


def test_a_csv_row_with_too_few_or_too_many_fields_is_a_fault(write):
    found = faults(write(b"prompt,completion\na,b\nc\nd,e,f\n", "rows.csv"))
    assert list(found) == [2, 3] and all(
        "another number of fields than the header (2)" in fault for fault in found.values()
    )


def test_a_csv_cell_may_be_long(write):
    (record,) = read_records(write(b"prompt,completion\na," + b"b" * 200_000 + b"\n", "rows.csv"))
    assert record.fault is None
    assert len(record.value["completion"]) == 200_000


def test_a_csv_file_cut_inside_quotes_is_a_fault(write):
    found = faults(write(b'prompt,completion\na,b\nc,"d', "rows.csv"))
    assert list(found) == [2] and "broken CSV at line 3" in found[2]


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
    pyarrow.parquet.write_table(pyarrow.table({"arguments": arguments}), tmp_path / "rows.parquet")
    (record,) = read_records(tmp_path / "rows.parquet")
    assert record.value == {"arguments": {"zone": "B", "at": None}}


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


def test_a_local_file_is_found_before_the_hub_is_asked(write, monkeypatch):
    monkeypatch.setattr(formats, "list_repo_files", lambda *_, **__: pytest.fail("asked the hub"))
    path = write(ROWS)
    assert find_data(path) == find_data(str(path)) == (path,)


def test_a_path_that_cannot_be_looked_at_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: .*File name too long"):
        find_data(tmp_path / ("a" * 300 + ".jsonl"))
    with pytest.raises(DataError, match=r"~nobody-of-this-name/rows\.jsonl cannot be read"):
        find_data("~nobody-of-this-name/rows.jsonl")


@pytest.mark.parametrize("source", ["rows.txt", "rows"])
def test_a_file_of_another_kind_is_refused(write, source):
    with pytest.raises(DataError, match=r"expected one of \.jsonl, \.json, \.csv, \.parquet"):
        find_data(write(b"{}", source))


@pytest.mark.parametrize("source", ["none.jsonl", "folder/none.jsonl", "./a/b", "/a/b", "~/b", "a/b/c", "alone"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "list_repo_files", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="there is no file"):
        find_data(source)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub data set that holds these files (or raises); returns what was downloaded."""

    def holding(*files, error=None):
        asked = []

        def listed(name, repo_type):
            assert (name, repo_type) == ("someone/rows", "dataset")
            if error:
                raise error
            return list(files)

        def download(name, file, repo_type):
            assert (name, repo_type) == ("someone/rows", "dataset")
            asked.append(file)
            return str(tmp_path / file)

        monkeypatch.setattr(formats, "list_repo_files", listed)
        monkeypatch.setattr(formats, "hf_hub_download", download)
        monkeypatch.chdir(tmp_path)
        return asked

    return holding


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["README.md", "test.jsonl", "train.jsonl"], "train", "train.jsonl"),
        (["data/test-0-of-1.parquet", "data/train-0-of-1.parquet"], "train", "data/train-0-of-1.parquet"),
        (["train/0.parquet", "test/0.parquet"], "test", "test/0.parquet"),
        (["constrain.jsonl", "train.jsonl", "trains.jsonl"], "train", "train.jsonl"),
        (["test.csv", "train.csv"], "test", "test.csv"),
        (["README.md", "everything.json"], "train", "everything.json"),
    ],
)
def test_a_hub_data_set_gives_the_file_of_its_split(hub, tmp_path, files, split, chosen):
    asked = hub(*files)
    assert find_data("someone/rows", split) == (tmp_path / chosen,)
    assert asked == [chosen]


@pytest.mark.parametrize("files", [["README.md"], ["a.jsonl", "b.jsonl"]])
def test_a_hub_data_set_without_that_split_names_what_it_holds(hub, files):
    hub(*files)
    with pytest.raises(DataError, match="no file for 'train': it holds " + ("none" if len(files) == 1 else "a.jsonl")):
        find_data("someone/rows")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["data/test-0-of-1", "data/train-00001-of-2", "data/train-00000-of-2"], (2, 1)),
        (["train-10", "train-2", "train-1", "validation-1"], (2, 1, 0)),
        (["train/1/0", "train/0/1", "train/0/0"], (2, 1, 0)),
    ],
)
def test_all_parts_of_a_split_are_taken_in_the_order_of_their_numbers(hub, tmp_path, files, parts):
    asked = hub(*(f"{file}.parquet" for file in files))
    assert find_data("someone/rows") == tuple(tmp_path / f"{files[place]}.parquet" for place in parts)
    assert len(asked) == len(parts)


@pytest.mark.parametrize(
    "files",
    [
        ["train.csv", "train.jsonl"],
        ["en/train.jsonl", "de/train.jsonl"],
        ["2023/train.jsonl", "2024/train.jsonl"],
        ["train.jsonl", "train_small.jsonl"],
        ["train_sft-0-of-1.jsonl", "train_gen-0-of-1.jsonl"],
        ["train-0-of-3.jsonl", "train-1-of-3.jsonl"],
        ["train-0-of-2.jsonl", "train-1-of-2.jsonl", "train-0-of-1.jsonl"],
    ],
    ids=["formats", "languages", "years", "sizes", "kinds", "a part missing", "two cuts"],
)
def test_files_of_a_split_that_are_not_the_parts_of_one_are_not_taken(hub, files):
    asked = hub(*files)
    with pytest.raises(DataError, match=r"not the parts of one.*it holds .*; name one: someone/rows:FILE"):
        find_data("someone/rows")
    assert not asked


def test_a_file_of_a_hub_data_set_can_be_named(hub, tmp_path):
    asked = hub("a.jsonl", "more/b.jsonl")
    assert find_data("someone/rows:more/b.jsonl") == (tmp_path / "more" / "b.jsonl",) and asked == ["more/b.jsonl"]
    with pytest.raises(DataError, match=r"has no file 'c.jsonl': it holds a.jsonl, more/b.jsonl"):
        find_data("someone/rows:c.jsonl")


def response(status):
    return client.Response(status, request=client.Request("GET", "https://hub.test"))


@pytest.mark.parametrize(
    "error",
    [
        RepositoryNotFoundError("gone", response=response(404)),
        LocalEntryNotFoundError("offline"),
        ConnectionError("no network"),
        client.ConnectError("no network"),
        client.ReadTimeout("slow"),
        HFValidationError("not a name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_does_not_deliver_is_a_data_error(hub, error):
    hub(error=error)
    with pytest.raises(DataError, match="someone/rows"):
        find_data("someone/rows")


PARTS = {
    "README.md": b"rows",
    "data/test-00000-of-00001.jsonl": b'{"text": "never"}\n',
    "data/train-00000-of-00002.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
    "data/train-00001-of-00002.jsonl": b'{"text": "c"}\n',
}


class Hub(Answering):
    """As much of the hub's interface as one data set needs."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        file = path.removeprefix("/datasets/someone/rows/resolve/main/")
        if path == "/api/datasets/someone/rows/tree/main":
            listed = [{"type": "file", "path": k, "size": len(v), "oid": oid(v)} for k, v in PARTS.items()]
            self.json(listed)
        elif file in PARTS:
            self.answer(PARTS[file], 200, {"ETag": f'"{oid(PARTS[file])}"', "X-Repo-Commit": "0" * 40})
        else:
            self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})


def test_a_data_set_in_parts_comes_whole_from_a_hub(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        # The hub's library reads its environment when it is imported.
        monkeypatch.setattr(formats.list_repo_files.__self__, "endpoint", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        got = read_records(*find_data("someone/rows"))
        with pytest.raises(DataError, match="neither a file nobody/rows nor a hub data set"):
            find_data("nobody/rows")
        server.shutdown()
    assert got == [Record(1, {"text": "a"}), Record(2, {"text": "b"}), Record(3, {"text": "c"})]
