"""A sample of rows out of data that is larger than memory."""

import csv
import json
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kameleon.data import Row, corpus, encode_row, read_corpus
from kameleon.data.records import Record
from kameleon.errors import DataError

ROWS = [{"prompt": f"{i}?", "completion": f"{i}" + "." * 2000} for i in range(2000)]


def write_large(path):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=100)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_only_the_rows_of_the_sample_are_held(chatml, tmp_path, name):
    path = write_large(tmp_path / name)
    tracemalloc.start()
    try:
        sample = read_corpus(path, chatml, rows=5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(sample.examples), sample.origin.rows, sample.origin.of_rows) == (5, 5, 2000)
    assert peak < 3_000_000  # the rows have four million letters; a hash reads one million at a time
    assert sample.origin.sha256 == corpus._sha256([path])


@given(count=st.integers(0, 60), rows=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_sample_has_so_many_rows_in_their_order_and_the_seed_decides_which(count, rows, seed):
    records = [Record(i, {}) for i in range(1, count + 1)]
    chosen, seen = corpus._reservoir(iter(records), rows, seed)
    numbers = [record.number for record in chosen]
    assert seen == count and len(numbers) == min(rows, count)
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(1, count + 1))
    assert corpus._reservoir(records, rows, seed) == (chosen, seen)


def test_every_row_has_the_same_chance():
    records = [Record(i, {}) for i in range(20)]
    drawn = Counter(r.number for seed in range(2000) for r in corpus._reservoir(records, 5, seed)[0])
    assert len(drawn) == 20 and all(400 < count < 600 for count in drawn.values())  # 500 each, five deviations apart


def test_a_sample_larger_than_the_file_is_the_file(chatml, write):
    path = write(ROWS[:3])
    sample, whole = read_corpus(path, chatml, rows=7), read_corpus(path, chatml)
    assert sample.examples == whole.examples and sample.origin.of_rows == 3
    assert whole.origin.of_rows is None


def test_rows_that_are_not_chosen_are_not_looked_at(chatml, write):
    path = write([*ROWS[:1], *([{"prompt": "?", "completion": ""}] * 50)])
    seed = next(
        seed for seed in range(999) if corpus._reservoir([Record(i, {}) for i in range(51)], 1, seed)[0][0].number == 0
    )
    assert len(read_corpus(path, chatml, rows=1, seed=seed).examples) == 1


def test_all_examples_share_one_object_for_each_token():
    """An object of its own has 28 bytes: with those a token took 44."""
    template = SimpleNamespace(
        opening=(),
        encode_whole=lambda text: tuple(int(word) for word in text.split()),
        ended=lambda tokens: (*tokens, 10_000 - 1),
    )
    first, second = (encode_row(Row(i, text="5000 6000 5000"), template) for i in range(2))
    assert first.tokens == (5000, 6000, 5000, 9999)
    assert len({id(token) for token in (*first.tokens, *second.tokens)}) == 3


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path, tiny, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    encode_records = corpus.encode_records

    def grows(*arguments, **more):
        found = encode_records(*arguments, **more)
        path.write_text(path.read_text() * 2)
        return found

    monkeypatch.setattr(corpus, "encode_records", grows)
    with pytest.raises(DataError, match="was changed while it was read"):
        tiny.read(path)
