"""Commands on the tiny base, and rows for it."""

import json

import pytest


@pytest.fixture
def on_tiny(run, tiny_folder):
    """Run a command with `--base` the tiny base; without that with `base=False`."""

    def command(*words, base=True):
        return run(*words, *(("--base", tiny_folder) if base else ()))

    return command


@pytest.fixture
def rows(tmp_path):
    """A file of 30 rows, of which 9 are different."""
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"What comes after {i % 9}?", "completion": f"{i % 9 + 1}"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path
