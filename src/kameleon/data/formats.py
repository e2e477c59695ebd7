"""Files to records: JSONL, JSON, CSV and Parquet, local or on the hub. It knows nothing of what rows mean."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from kameleon.errors import DataError, MissingExtraError

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Record:
    """One row as it stands in the file. `fault` says why it could not be read; `value` is then empty."""

    number: int
    """Its line in JSONL; elsewhere its place, from 1."""
    value: dict[str, Any]
    fault: str | None = None


def find_data(source: str | Path, split: str = "train") -> Path:
    """The file that `source` names: a local path, or a hub data set (owner/name), of which the first file of `split`.

    Raises DataError.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise DataError(f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(_SUFFIXES)}")
        return path
    name = str(source)
    if path.exists() or name.count("/") != 1 or path.suffix in _SUFFIXES or name.startswith((".", "/", "~")):
        raise DataError(f"there is no file {path}; give a local file or a hub data set owner/name")
    try:
        files = [f for f in list_repo_files(name, repo_type="dataset") if f.endswith(_SUFFIXES)]
        chosen = next((f for f in sorted(files) if split in Path(f).stem), None) or (
            files[0] if len(files) == 1 else None
        )
        if chosen is None:
            raise DataError(
                f"the hub's data set {name} has no file for {split!r}: it holds {', '.join(files) or 'none'}"
            )
        return Path(hf_hub_download(name, chosen, repo_type="dataset"))
    except RepositoryNotFoundError as error:
        raise DataError(f"there is neither a file {path} nor a hub data set {name}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"there is no file {path}, and the hub did not deliver a data set {name}: {error}") from error


def read_records(path: Path) -> list[Record]:
    """All rows in order; one that cannot be read has a fault. Raises DataError when the whole file cannot be read."""
    if path.suffix == ".parquet":
        return list(_parquet(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    return list(readers[path.suffix](text, path))


def _record(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"expected an object with named fields, got {type(value).__name__}")


def _jsonl(text: str, path: Path) -> Iterator[Record]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _record(number, json.loads(line))
        except json.JSONDecodeError as error:
            cut = " (the file's last line: was it cut short?)" if number == len(lines) else ""
            yield Record(number, {}, f"broken JSON at column {error.colno}: {error.msg}{cut}")


def _json(text: str, path: Path) -> Iterator[Record]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON: {error.msg}") from error
    if not isinstance(values, list):
        raise DataError(f"{path} holds {type(values).__name__}; expected a list of rows")
    return (_record(number, value) for number, value in enumerate(values, start=1))


def _csv(text: str, path: Path) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        for number, value in enumerate(reader, start=1):
            if None in value or None in value.values():
                count = len(reader.fieldnames or [])
                yield Record(number, {}, f"it has not the {count} fields that the first line names")
            else:
                yield Record(number, dict(value))
    except csv.Error as error:
        yield Record(number + 1, {}, f"broken CSV at line {reader.line_num}: {error}")


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError('reading Parquet needs pyarrow: pip install "kameleon[parquet]"') from error
    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from error
    for number, value in enumerate(values, start=1):
        yield _record(number, {key: one for key, one in value.items() if one is not None})
