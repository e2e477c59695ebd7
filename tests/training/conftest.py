"""Rows that a tiny base learns in some steps, and rows to watch it with."""

import pytest
from training.counting import write_rows


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def watched(tmp_path):
    """Rows to look at that `rows` does not have."""
    path = write_rows(tmp_path / "watched.jsonl", 56)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[40:]))
    return path
