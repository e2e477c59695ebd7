"""Rows that are in memory: a list of dicts, or a table of pandas, polars, Arrow or Hugging Face's datasets.

None of these packages is imported; a table is known by its methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kameleon.data.formats import without_filled
from kameleon.data.records import Record
from kameleon.errors import DataError, WrongTypeError
from kameleon.words import came


class Table(Protocol):
    """A DataFrame of pandas or polars, a Table of Arrow, or a Dataset of Hugging Face's datasets."""

    def __len__(self) -> int:
        """Its rows."""
        ...


Rows = Sequence[Mapping[str, Any]] | Table
Data = str | Path | Rows
"""A file, a hub data set owner/name, or rows in memory."""

_EXPECTED = "a file, a hub data set owner/name, a list of dicts, a DataFrame, or a Dataset"
_MISSING = ("NAType", "NaTType")  # pandas' own values for what is not there


@dataclass(frozen=True)
class RowsInMemory:
    """Records numbered from 1. `sha256` is that of the rows as JSON lines, so equal rows have equal hashes."""

    records: tuple[Record, ...]
    sha256: str
    is_table: bool
    """Whether all rows have the same fields, and None stands for an empty cell."""
    name = "rows in memory"

    @staticmethod
    def of(rows: Rows) -> RowsInMemory:
        """Copies of the rows; None and NaN of a table are empty cells.

        Raises WrongTypeError for anything else than rows, DataError where there are none.
        """
        records = tuple(_record(number, value) for number, value in enumerate(_values(rows), start=1))
        if not records:
            raise DataError(f"{came(rows)} is empty: it has no rows")
        held = ({key: one for key, one in record.value.items() if one is not None} for record in records)
        lines = (json.dumps(value, sort_keys=True, default=str) + "\n" for value in held)
        is_table = not isinstance(rows, list | tuple)
        return RowsInMemory(records, hashlib.sha256("".join(lines).encode()).hexdigest(), is_table)


def _values(rows: Any) -> Iterable[Any]:
    """Each row as a plain dict; what is no dict stays, and becomes a fault of its row."""
    if isinstance(rows, list | tuple):
        return (_plain(row) for row in rows)
    if isinstance(rows, Mapping):
        several = bool(rows) and all(hasattr(one, "column_names") for one in rows.values())
        how = f"give one of its splits: {', '.join(map(str, rows))}" if several else "one row is given in a list"
        raise WrongTypeError(f"{came(rows)} came for rows; expected {_EXPECTED}; {how}")
    if hasattr(rows, "to_dicts"):  # polars
        return (_of_table(row) for row in rows.to_dicts())
    if hasattr(rows, "to_pylist") and hasattr(rows, "column_names"):  # Arrow
        return (_of_table(row) for row in rows.to_pylist())
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):  # pandas
        return _pandas_rows(rows)
    if hasattr(rows, "column_names") and hasattr(rows, "__len__"):  # datasets
        return (_of_table(row) for row in rows)
    how = f": give {rows_word}" if (rows_word := _remedy(rows)) else ""
    raise WrongTypeError(f"{came(rows)} came for rows; expected {_EXPECTED}{how}")


def _pandas_rows(frame: Any) -> Iterator[dict[str, Any]]:
    if not frame.columns.is_unique:
        raise DataError("two columns of the DataFrame have the same name: rename one")
    of_arrow = {name for name, kind in frame.dtypes.items() if hasattr(kind, "pyarrow_dtype")}
    for row in frame.to_dict(orient="records"):
        yield {str(key): _plain(without_filled(one) if key in of_arrow else one) for key, one in row.items()}


def _remedy(rows: Any) -> str:
    if hasattr(rows, "collect"):  # a LazyFrame of polars
        return "what its collect() returns"
    if hasattr(rows, "__iter__") and not isinstance(rows, str | bytes):
        return "list(...) of it"
    return ""


def _plain(value: Any) -> Any:
    """The value with Python's own types, as JSON has them: a tuple is a list, a missing number is None.

    An array (of numpy) was made from Arrow's lists, so nulls in it were filled in.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    to_list = getattr(value, "tolist", None)
    if to_list is not None:  # an array, or a number of numpy or torch
        return _plain(without_filled(to_list()))
    is_missing = type(value).__name__ in _MISSING or (isinstance(value, float) and value != value)
    return None if is_missing else value


def _of_table(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table. Its empty cells stay, as in a file; fields that Arrow filled into objects do not."""
    return {str(key): _plain(without_filled(one)) for key, one in row.items()}


def _record(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"expected a dict with named fields, got {came(value)}")
