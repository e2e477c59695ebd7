"""Rows in memory are read as those of a file: the same examples, the same checks, and a hash of what they say."""

import json
import math

import numpy
import pyarrow
import pytest

from kameleon.data import read_corpus
from kameleon.data.memory import RowsInMemory
from kameleon.errors import DataError, WrongTypeError

ROWS = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in range(6)]


class Frame:
    """A table with the methods of pandas' DataFrame that are used."""

    def __init__(self, rows):
        self.rows = rows
        self.columns = type("Index", (), {"is_unique": True})()
        self.iloc = None
        self.dtypes = {}

    def __len__(self):
        return len(self.rows)

    def to_dict(self, orient="dict"):
        assert orient == "records"
        return self.rows


class PolarsFrame:
    """A table with the methods of polars' DataFrame that are used."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def to_dicts(self):
        return self.rows


class Dataset(list):
    """A table with the methods of Hugging Face's Dataset that are used."""

    column_names = ("prompt", "completion")


class NAType:
    """What pandas puts where nothing is; it cannot be compared."""

    def __ne__(self, other):
        raise TypeError


def values(rows):
    return [
        {key: one for key, one in record.value.items() if one is not None} for record in RowsInMemory.of(rows).records
    ]


@pytest.mark.parametrize("table", [list, tuple, Frame, PolarsFrame, pyarrow.Table.from_pylist])
def test_rows_in_memory_are_the_examples_of_the_same_file(table, tiny, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    template = tiny.base.template
    of_file, of_memory = read_corpus(tmp_path / "rows.jsonl", template), read_corpus(table(ROWS), template)
    assert of_memory.examples == of_file.examples
    assert of_memory.rows == of_file.rows
    assert [example.row for example in of_memory.examples] == [1, 2, 3, 4, 5, 6]
    assert (of_memory.origin.path, of_memory.origin.rows) == ("rows in memory", 6)


def test_a_dataset_is_read_row_by_row():
    assert values(Dataset(ROWS)) == ROWS


def test_equal_rows_have_one_hash_in_each_kind_of_table_and_other_rows_another():
    tables = [ROWS, tuple(ROWS), Frame(ROWS), PolarsFrame(ROWS), [dict(reversed(row.items())) for row in ROWS]]
    assert len({RowsInMemory.of(table).sha256 for table in tables}) == 1
    changed = [*ROWS[:-1], {**ROWS[-1], "completion": "It is 7."}]
    assert RowsInMemory.of(changed).sha256 != RowsInMemory.of(ROWS).sha256
    assert RowsInMemory.of(ROWS[::-1]).sha256 != RowsInMemory.of(ROWS).sha256


def test_what_a_table_fills_in_where_a_row_has_nothing_is_no_field():
    rows = [
        {"prompt": "a", "completion": "b", "input": one} for one in (None, math.nan, NAType(), numpy.float32("nan"))
    ]
    assert values(Frame(rows)) == [{"prompt": "a", "completion": "b"}] * 4
    assert values(PolarsFrame(rows[:2])) == [{"prompt": "a", "completion": "b"}] * 2


def test_nulls_inside_of_what_arrow_made_are_no_fields_and_those_that_a_person_wrote_stay():
    calls = [{"name": "call", "arguments": {"to": None, "at": "noon"}}]
    without = [{"name": "call", "arguments": {"at": "noon"}}]
    assert values(PolarsFrame([{"calls": calls}])) == [{"calls": without}]
    assert values(pyarrow.Table.from_pylist([{"calls": calls}, {"calls": None}])) == [{"calls": without}, {}]
    assert values(Frame([{"calls": numpy.array(calls, dtype=object)}])) == [{"calls": without}]  # read from Parquet
    pairs = pyarrow.array([[("to", None), ("at", "noon")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    assert values(pyarrow.table({"arguments": pairs})) == [{"arguments": {"to": None, "at": "noon"}}]
    of_arrow = Frame([{"calls": calls}])
    of_arrow.dtypes = {"calls": type("ArrowDtype", (), {"pyarrow_dtype": None})()}
    assert values(of_arrow) == [{"calls": without}]
    assert values(Frame([{"calls": calls}])) == [{"calls": calls}]
    assert values([{"calls": calls}]) == [{"calls": calls}]


@pytest.mark.parametrize("table", [Frame, PolarsFrame, pyarrow.Table.from_pylist])
@pytest.mark.filterwarnings("ignore:rows in memory. it is read with 'Pytanie' as prompt")
def test_a_table_in_memory_is_read_as_one_in_a_file(table, tiny, tmp_path):
    """Its columns may have other names, and rows with an empty cell are left out."""
    rows = [{"Pytanie": f"What is {i}?", "Odpowiedź": f"It is {i}."} for i in range(4)]
    rows[1]["Odpowiedź"], rows[2]["Pytanie"] = None, "  "
    (tmp_path / "rows.csv").write_text(
        "".join(f"{a},{b or ''}\n" for a, b in [tuple(rows[0]), *map(dict.values, rows)])
    )
    with pytest.warns(
        UserWarning, match=r"2 of 4 rows are left out.*empty cell \('Odpowiedź'\).*empty cell \('Pytanie'"
    ):
        of_memory = read_corpus(table(rows), tiny.base.template)
    with pytest.warns(UserWarning):
        of_file = read_corpus(tmp_path / "rows.csv", tiny.base.template)
    assert [one.tokens for one in of_memory.examples] == [one.tokens for one in of_file.examples]
    with pytest.raises(DataError, match="rows in memory: row 1: its columns are 'nr', 'note'; expected prompt"):
        read_corpus(table([{"nr": 1, "note": "x"}]), tiny.base.template)


def test_values_of_numpy_and_tuples_are_those_of_json():
    [made] = values([{"a": numpy.int64(3), "b": ("x", numpy.str_("y")), "c": numpy.array([1, 2]), 4: numpy.bool_(1)}])
    assert made == {"a": 3, "b": ["x", "y"], "c": [1, 2], "4": True}
    assert [type(one) for one in (made["a"], made["b"], made["b"][1], made["4"])] == [int, list, str, bool]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ROWS[0], "a dict came for rows; expected .*one row is given in a list"),
        ({"train": Dataset(ROWS), "test": Dataset(ROWS)}, "give one of its splits: train, test"),
        ((row for row in ROWS), r"a generator came for rows; .*list\(\.\.\.\) of it"),
        (type("LazyFrame", (), {"collect": None})(), r"a LazyFrame came for rows; .*what its collect\(\) returns"),
        (None, "None came for rows"),
        (3, r"3 \(int\) came for rows; expected a file"),
        (b"rows.jsonl", "came for rows"),
    ],
)
def test_what_holds_no_rows_is_told_with_what_is_expected(rows, told):
    with pytest.raises(WrongTypeError, match=told):
        RowsInMemory.of(rows)


def test_bad_rows_are_told_with_their_numbers_as_those_of_a_file(tiny):
    with pytest.raises(DataError, match=r"rows in memory: row 2: expected a dict .*got 'text' \(str\)"):
        read_corpus([ROWS[0], "text"], tiny.base.template)
    with pytest.raises(DataError, match=r"rows in memory: row 3: 'completion' is int; expected text"):
        read_corpus([*ROWS[:2], {"prompt": "a", "completion": 3}], tiny.base.template)
    for empty in ([], Frame([])):
        with pytest.raises(DataError, match="is empty: it has no rows"):
            read_corpus(empty, tiny.base.template)
