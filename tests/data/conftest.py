"""Templates over a tiny tokenizer, and files of rows."""

import json

import pytest
from data.chat_templates import CHATML, LLAMA3, REWRITING, make_tokenizer

from kameleon.text import ChatTemplate


@pytest.fixture(scope="session")
def chatml():
    return ChatTemplate(make_tokenizer(CHATML))


@pytest.fixture(scope="session")
def llama3():
    return ChatTemplate(make_tokenizer(LLAMA3, "<|begin_of_text|>", "<|eot_id|>"))


@pytest.fixture(scope="session")
def rewriting():
    return ChatTemplate(make_tokenizer(REWRITING))


@pytest.fixture
def write(tmp_path):
    """Write rows (as JSONL) or bytes to a file of that name; returns its path."""

    def write_file(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(rows if isinstance(rows, bytes) else "".join(json.dumps(r) + "\n" for r in rows).encode())
        return path

    return write_file
