"""CSV and TSV as spreadsheets write them: separators, code pages and row numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from kameleon.data.code_pages import text_encoding
from kameleon.data.columns import is_understood
from kameleon.data.records import Record
from kameleon.errors import DataError
from kameleon.settings import Reading

_LOOKED_AT_CHARACTERS = 1 << 16
_JSON = re.compile(r'\s*(\[\s*)?\{\s*"')
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
"""A first line for Excel, which no spreadsheet shows as a row."""


def read_table(path: Path, reading: Reading) -> Iterator[Record]:
    """The rows below the header, each with its number in the spreadsheet. Raises DataError."""
    csv.field_size_limit(2**31 - 1)  # of the whole process; else a cell of more than 131,072 characters is refused
    encoding = text_encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            start = file.read(_LOOKED_AT_CHARACTERS)
            if _JSON.match(start):
                raise DataError(f"{path} holds JSON, not a table: give it a name that ends in .jsonl")
            file.seek(0)
            if told := _SEPARATOR_LINE.fullmatch(file.readline()):
                delimiter = told[1]
            else:
                file.seek(0)
                delimiter = _delimiter(start, path.suffix.lower(), reading)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            yield from _below_header(path, reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _below_header(path: Path, reader: Iterator[list[str]]) -> Iterator[Record]:
    header: list[str] = []
    for number, cells in _numbered(reader):
        if isinstance(cells, csv.Error):
            if not header:
                raise DataError(f"{path}, row {number}: broken CSV in the names of the columns: {cells}")
            yield Record(number, {}, _describe_broken(cells, reader))
        elif cells and not header:
            header = _header(path, cells)
        elif cells:
            yield _record(number, cells, header)


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each row with its number. A row without cells is a blank line. After broken quotes the next line is a new row."""
    number = 0
    while True:
        number += 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, error


def _describe_broken(error: csv.Error, reader: Iterator[list[str]]) -> str:
    line = getattr(reader, "line_num", 0)
    if "unexpected end" in str(error):
        return f"broken CSV: a quotation mark is not closed before the end of the file, line {line}"
    return f"broken CSV at line {line}: {error} (a quotation mark inside a quoted cell is written twice)"


def _header(path: Path, cells: list[str]) -> list[str]:
    while cells and not cells[-1].strip():  # of columns that were deleted in the spreadsheet
        cells = cells[:-1]
    twice = next((name for at, name in enumerate(cells) if name in cells[:at]), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are named {twice!r}: rename one")
    return cells


def _record(number: int, cells: list[str], header: list[str]) -> Record:
    beyond = cells[len(header) :]
    if len(cells) < len(header) or any(cell.strip() for cell in beyond):
        told = f"the row has another number of fields than the header ({len(header)})"
        return Record(number, {}, told)
    return Record(number, dict(zip(header, cells, strict=False)))


def _delimiter(start: str, suffix: str, reading: Reading) -> str:
    """The separator under which the first row names known columns, or else most rows have as many cells as it."""
    whole = len(start) < _LOOKED_AT_CHARACTERS

    def fit(delimiter: str) -> tuple[bool, bool, float, int]:
        reader = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter, strict=True)
        rows = [cells for _, cells in _numbered(reader) if isinstance(cells, list) and cells]
        header, *others = rows or [[]]
        others = list(islice(others, len(others) if whole else len(others) - 1))  # the last one may be cut
        width = len(header)
        share = sum(len(cells) == width for cells in others) / max(1, len(others))
        return is_understood(tuple(header), reading), width > 1, share, width

    return max("\t,;|" if suffix == ".tsv" else ",;\t|", key=fit)
