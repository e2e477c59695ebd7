"""Files to records: JSONL, JSON, CSV, TSV and Parquet. What a record means is not known here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kameleon.data.columns import describe_names, empty_cells, field_names, guessed_names, is_understood
from kameleon.data.records import Record
from kameleon.data.tables import read_table
from kameleon.errors import DataError, MissingExtraError
from kameleon.settings import Reading
from kameleon.words import first_few

_PARQUET_ROWS = 1000  # read at a time


def read_records(*paths: Path, reading: Reading | None = None) -> Iterator[Record]:
    """All records of one file, or of the parts of one, in order. A record that cannot be read has a fault.

    Records are read one at a time; only a JSON list is held whole. Numbers go on from part to part. What had to be
    guessed (an encoding, which column is the prompt) is a warning. Raises DataError for a file that cannot be read at
    all, when its turn comes.
    """
    reading = Reading() if reading is None else reading
    return _counted_on(
        paths, lambda path: usual_fields(str(path), _records(path, reading), reading, is_table=_is_table(path))
    )


def read_as_written(*paths: Path) -> Iterator[Record]:
    """Like `read_records`, with the names of fields that stand in the files; what they mean is not asked."""
    return _counted_on(paths, lambda path: _records(path, Reading()))


def _counted_on(paths: Sequence[Path], read: Callable[[Path], Iterator[Record]]) -> Iterator[Record]:
    number = 0
    for path in paths:
        before = number
        for record in read(path):
            number = before + record.number
            yield replace(record, number=number)


def _records(path: Path, reading: Reading) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_table(path, reading)
    return _parquet(path) if suffix == ".parquet" else _json(path)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv", ".parquet")


def usual_fields(
    origin: str, records: Iterable[Record], reading: Reading, *, is_table: bool = False
) -> Iterator[Record]:
    """The records with the usual names of fields. A table whose columns are not understood is one fault, not many.

    `origin` names the file in warnings. All records of a table have the same fields; a row with an empty one is empty.
    """
    told = set[str]()
    for record in records:
        names = tuple(record.value)
        if record.fault is not None:
            yield record
            continue
        try:
            renamed = field_names(names, reading)
            if is_table and not is_understood(names, reading):
                raise DataError(describe_names(names, is_table=True))
        except DataError as error:
            yield Record(1 if is_table else record.number, {}, str(error))
            if is_table:
                return
            continue
        shown = " and ".join(f"{name!r} as {field}" for name, field in guessed_names(names, reading).items())
        if shown and shown not in told:
            told.add(shown)
            warnings.warn(f"{origin}: it is read with {shown}", stacklevel=2)
        yield _renamed(record, renamed, is_table=is_table)


def _renamed(record: Record, renamed: Mapping[str, str | None], *, is_table: bool) -> Record:
    fields = {name: renamed.get(name, name) for name in record.value}
    value = {field: record.value[name] for name, field in fields.items() if field is not None}
    if not is_table:
        return replace(record, value=value)
    empty = empty_cells(value, list(value))
    if empty:
        names = [name for name, field in fields.items() if field in empty]
        return Record(record.number, {}, f"empty cell ({', '.join(map(repr, names))})", empty=True)
    return replace(record, value={field: one for field, one in value.items() if one is not None})


def describe_empty(source: str | Path, paths: Sequence[Path]) -> str:
    """One line that says why a source holds no record."""
    texts = {path: path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip() for path in paths}
    reasons = {".json": "a list of no rows", ".parquet": "a table of no rows"}
    reasons |= dict.fromkeys((".csv", ".tsv"), "a header and no rows")
    blank = "only blank lines" if any(path.stat().st_size for path in paths) else "0 bytes"
    reason = next((reasons.get(path.suffix.lower(), blank) for path, text in texts.items() if text), blank)
    return f"{source} is empty: {reason}"


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, each with its line feed. Raises DataError."""
    number = 1
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _record(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"expected an object with named fields, got {type(value).__name__}")


def _jsonl(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield _record(number, json.loads(line))
        except json.JSONDecodeError as error:
            cut = "" if line.endswith("\n") else " (the file's last line: was it cut short?)"
            yield Record(number, {}, f"broken JSON at column {error.colno}: {error.msg}{cut}")
        except (ValueError, RecursionError) as error:
            yield Record(number, {}, f"JSON that Python does not read: {error}")


def _json(path: Path) -> Iterator[Record]:
    """JSON lines, or a list of rows: the file's first line decides, not its name."""
    first = next((line for line in _lines(path) if line.strip()), "")
    if first.strip() and first.strip()[0] not in "{[" and not _is_json(first):
        raise DataError(
            f"{path} holds no JSON: it begins with {first.strip()[:40]!r}, and {{ or [ was expected; the name of a "
            "table ends in .csv or .tsv"
        )
    over_lines = first.strip() == "{" or (path.suffix.lower() == ".json" and not _is_json(first))
    if not first.lstrip().startswith("[") and not over_lines:
        yield from _jsonl(path)
        return
    text = "".join(_lines(path))
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        several = text.lstrip().startswith("{") and error.msg == "Extra data"
        told = "a second object; write each object in one line, or all into one list" if several else error.msg
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {told}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} holds JSON that Python does not read: {error}") from error
    if not isinstance(values, list):
        held = f"one object with {first_few(values, 5)}" if isinstance(values, dict) else type(values).__name__
        raise DataError(f"{path} holds {held}; expected a list of rows, or one object a line")
    yield from (_record(number, value) for number, value in enumerate(values, start=1))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def without_filled(value: Any) -> Any:
    """A value out of Arrow without the fields that are null: Arrow fills in each field that any row has.

    Nulls in lists stay, and so do those in JSON text.
    """
    if isinstance(value, dict):
        return {key: without_filled(one) for key, one in value.items() if one is not None}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(one, tuple) for one in value):  # pairs of a map, which is an object in JSON
        return {str(key): without_filled(one) for key, one in value}
    return [without_filled(one) for one in value]


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow", "parquet") from error
    try:
        if not path.stat().st_size:
            return
        with pyarrow.parquet.ParquetFile(path) as file:
            values = (value for batch in file.iter_batches(_PARQUET_ROWS) for value in batch.to_pylist())
            for number, value in enumerate(values, start=1):
                yield _record(number, {key: without_filled(one) for key, one in value.items()})
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from error
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a time that Python does not know
        raise DataError(f"{path} holds what Python does not read: {error}") from error
