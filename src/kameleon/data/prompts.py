"""A file of prompts to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kameleon.data.formats import read_as_written
from kameleon.data.sources import find_data
from kameleon.errors import DataError

_ANSWER = ("answer", "finish")
"""Fields that an answered row gets."""


@dataclass(frozen=True)
class AskedRow:
    """One prompt of a file: text or messages, its place in the file (from 1), and the row as it was written."""

    number: int
    prompt: str | list[dict[str, Any]]
    fields: dict[str, Any]


def read_prompts(source: str | Path) -> list[AskedRow]:
    """The prompts of a .txt file, one a line, or the `prompt` or `messages` of each row of JSONL, JSON, CSV or Parquet.

    Blank lines are left out. Other fields of a row are kept in `fields`, except those that would change its answer.
    Raises DataError, which names the row.
    """
    if Path(source).suffix.lower() == ".txt":
        asked = list(_lines(Path(source)))
    else:
        asked = [_asked(record.number, record.value, record.fault) for record in read_as_written(*find_data(source))]
    if not asked:
        raise DataError(f"{source} holds no prompt")
    return asked


def _lines(path: Path) -> Iterator[AskedRow]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}); save the file as UTF-8") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield AskedRow(number, line.strip(), {"prompt": line.strip()})


def _asked(number: int, value: dict[str, Any], fault: str | None) -> AskedRow:
    if fault:
        raise DataError(f"row {number}: {fault}")
    given = [name for name in ("prompt", "messages") if value.get(name)]
    if len(given) != 1:
        raise DataError(f"row {number}: expected `prompt` or `messages`, got {', '.join(value) or 'nothing'}")
    if refused := [name for name in ("system", "tools", *_ANSWER) if value.get(name) is not None]:
        raise DataError(
            f"row {number}: {refused[0]} cannot be used here; a system prompt is a message of `messages`, or "
            "`system=TEXT` for all rows"
        )
    prompt = value[given[0]]
    if isinstance(prompt, str):
        return AskedRow(number, prompt, value)
    if not isinstance(prompt, list) or not all(isinstance(m, dict) and "role" in m for m in prompt):
        raise DataError(f"row {number}: {given[0]} must be a list of messages, each with role and content")
    if prompt[-1]["role"] == "assistant":
        raise DataError(f"row {number}: the last message is the assistant's, so there is nothing to answer")
    return AskedRow(number, prompt, value)
