"""Files to records: JSONL, JSON, CSV and Parquet, local or on the hub. What a record means is not known here."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # of the HTTP client that this version uses  # pyright: ignore[reportPrivateImportUsage]
    RepositoryNotFoundError,
)

from kameleon.errors import DataError, MissingExtraError
from kameleon.words import first_few

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_PARQUET_ROWS = 1000  # read at a time


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file. `fault` says why it could not be read; `value` is then empty."""

    number: int
    """Its line in JSONL, elsewhere its place, from 1. The numbers go on from part to part of a file in parts."""
    value: dict[str, Any]
    fault: str | None = None


def find_data(source: str | Path, split: str = "train") -> tuple[Path, ...]:
    """The files that `source` names: a local path, a hub data set (owner/name), or a file of one (owner/name:FILE).

    For a data set, this is the file with `split` in its name or folder, or all of that file's parts in their order, or
    else the only file. Raises DataError, also when the files with `split` in their names are not the parts of one file.
    """
    try:
        path = Path(source).expanduser()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~NAME of no user
        raise DataError(f"{source} cannot be read: {error}") from error
    if is_file:
        if path.suffix not in _SUFFIXES:
            raise DataError(f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(_SUFFIXES)}")
        return (path,)
    name, _, wanted = str(source).partition(":")
    if path.exists() or name.count("/") != 1 or name.endswith(_SUFFIXES) or name.startswith((".", "/", "~")):
        raise DataError(f"there is no file {path}; give a local file, or a hub data set owner/name")
    try:
        files = sorted(f for f in list_repo_files(name, repo_type="dataset") if f.endswith(_SUFFIXES))
        chosen = _choose(name, files, wanted, split)
        return tuple(Path(hf_hub_download(name, file, repo_type="dataset")) for file in chosen)
    except RepositoryNotFoundError as error:
        raise DataError(f"there is neither a file {path} nor a hub data set {name}") from error
    except (HTTPError, HFValidationError, OSError) as error:
        raise DataError(f"there is no file {path}, and the hub did not deliver a data set {name}: {error}") from error


def _choose(name: str, files: list[str], wanted: str, split: str) -> list[str]:
    held = first_few(files, 8) or "none"
    if wanted:
        if wanted not in files:
            raise DataError(f"the hub's data set {name} has no file {wanted!r}: it holds {held}")
        return [wanted]
    # The split must be a word of its own: "constraints.jsonl" is no file for "train".
    word = re.compile(rf"(?<![a-z]){re.escape(split)}(?![a-z])")
    chosen = [f for f in files if word.search(f)] or (files if len(files) == 1 else [])
    if not chosen:
        raise DataError(f"the hub's data set {name} has no file for {split!r}: it holds {held}; name one: {name}:FILE")
    parts = {f: _part(f, word) for f in chosen}
    if len({shape for shape, _ in parts.values()}) > 1 or not _are_all_there(chosen):
        raise DataError(
            f"the hub's data set {name} has files for {split!r} that are not the parts of one, or not all of them: "
            f"it holds {held}; name one: {name}:FILE"
        )
    return sorted(chosen, key=lambda f: parts[f][1])


def _part(file: str, word: re.Pattern[str]) -> tuple[str, list[int]]:
    """A file's name with "#" for each number behind the split's name (equal for the parts of one), and the numbers."""
    found = word.search(file)
    end = found.end() if found else 0
    return file[:end] + re.sub(r"\d+", "#", file[end:]), [int(number) for number in re.findall(r"\d+", file[end:])]


def _are_all_there(files: list[str]) -> bool:
    """Whether there are as many parts as their names say (train-00000-of-00003). Other names say nothing."""
    told = {int(total) for file in files for total in re.findall(r"\d-of-(\d+)", file)}
    return told <= {len(files)}


def read_records(*paths: Path) -> Iterator[Record]:
    """All records of one file, or of the parts of one, in order. A record that cannot be read has a fault.

    Records are read one at a time; only a JSON list is held whole. Numbers go on from part to part. Raises DataError
    for a file that cannot be read at all, when its turn comes.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    number = 0
    for path in paths:
        before = number
        for record in readers[path.suffix](path):
            number = before + record.number
            yield replace(record, number=number)


def describe_empty(source: str | Path, paths: Sequence[Path]) -> str:
    """One line that says why a source holds no record."""
    texts = {path: path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip() for path in paths}
    reasons = {".csv": "a header and no rows", ".json": "a list of no rows", ".parquet": "a table of no rows"}
    blank = "only blank lines" if any(path.stat().st_size for path in paths) else "0 bytes"
    reason = next((reasons.get(path.suffix, blank) for path, text in texts.items() if text), blank)
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
    text = "".join(_lines(path))
    if not text.strip():
        return iter(())
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} holds JSON that Python does not read: {error}") from error
    if not isinstance(values, list):
        raise DataError(f"{path} holds {type(values).__name__}; expected a list of rows")
    return (_record(number, value) for number, value in enumerate(values, start=1))


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # of the whole process; else a cell of more than 131,072 characters is refused
    lines = chain.from_iterable(io.StringIO(line, newline="") for line in _lines(path))  # a lone \r ends one too
    reader = csv.DictReader(lines, strict=True)
    number = 0
    try:
        for number, value in enumerate(reader, start=1):
            if None in value or None in value.values():
                count = len(reader.fieldnames or [])
                yield Record(number, {}, f"the row has another number of fields than the header ({count})")
            else:
                yield Record(number, dict(value))
    except csv.Error as error:
        yield Record(number + 1, {}, f"broken CSV at line {reader.reader.line_num}: {error}")


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
                yield _record(number, without_filled(value))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from error
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a time that Python does not know
        raise DataError(f"{path} holds what Python does not read: {error}") from error
