"""Rows that a base cannot take are named before a run begins, and so are fields that it will not learn."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny import CHATML

import kameleon
from kameleon import Recipe, unloaded
from kameleon.data import Record, beyond_base, encode_records, examine
from kameleon.errors import DataError
from kameleon.evaluation import evaluate_as_trained
from kameleon.text.control import ControlTokens

QUICK = Recipe(rank=2, layers=1, epochs=1)
FINE = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in range(40)]
LONG = {"prompt": "a", "completion": "b " * 300}


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write_rows


@pytest.fixture
def never(monkeypatch):
    """A run must not begin."""
    monkeypatch.setattr("kameleon.api.loaded_base.new_run", lambda *_, **__: pytest.fail("a run began"))


def test_a_row_longer_than_the_context_is_named_at_the_start_also_when_it_is_held_out(tiny, tiny_folder, write, never):
    fine, long = write(FINE), write([*FINE, LONG], "long.jsonl")
    told = r"row 41: longer than the base's context of 256 tokens: shorten it, or let `max_row_tokens=256`"
    with pytest.raises(DataError, match=rf"long\.jsonl: {told}"):
        tiny.train(long, "x", recipe=QUICK)
    with pytest.raises(DataError, match=told):
        tiny.train(fine, "x", held_out=long, recipe=QUICK)
    with pytest.raises(DataError, match=told):
        unloaded.plan(str(tiny_folder), long, recipe=QUICK)
    with pytest.raises(DataError, match=told):
        tiny.test_set("long", long)


def test_a_row_that_a_system_prompt_makes_too_long_is_named(tiny, write):
    corpus = tiny.read(write([*FINE, {"prompt": "a", "completion": "b" * 200}]))
    longer = corpus.with_system_prompt(tiny.base.template, "c" * 100)
    with pytest.raises(DataError, match="row 41: longer"):
        tiny.train(longer, "x", recipe=QUICK)
    prompted = SimpleNamespace(system_prompt=lambda name: "c" * 100)
    with pytest.raises(DataError, match="row 41: longer"):
        evaluate_as_trained(tiny.base, prompted, ["prompted"], tiny.test_set("rows", corpus))


def test_rows_that_are_cut_to_the_context_fit(tiny, write):
    cut = encode_records([Record(1, LONG)], tiny.base.template, max_tokens=256)
    assert beyond_base(cut.examples, tiny.base.config) == ()
    assert [fault.fatal for fault in examine(cut)] == [False]


def test_a_token_without_an_embedding_is_named_at_the_start(tiny, write, never, monkeypatch):
    encode = ControlTokens.encode
    monkeypatch.setattr(ControlTokens, "encode", lambda self, text: [*encode(self, text), *[320] * ("7" in text)])
    with pytest.raises(DataError, match=r"row 7, 8, .*: holds token 320, but the base has embeddings for 320 tokens"):
        tiny.train(write(FINE), "x", recipe=QUICK)


def test_fields_that_are_not_read_are_told_at_the_start_of_a_run(tiny_folder, write, tmp_path):
    folder = tmp_path / "with tools"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}" + CHATML
    )
    tiny = kameleon.load(str(folder), dtype=torch.float32)
    rows = [{**row, "source": "a book", "tools": [{"name": "clock", "parameters": {}}]} for row in FINE]
    with pytest.warns(UserWarning) as told:
        tiny.train(write(rows), "x", recipe=QUICK, overwrite=True)
    texts = [str(one.message) for one in told]
    assert any("not read, so nothing of them is learned: 'source' in 40 rows" in text for text in texts)
    assert any("all rows have the same tools ('clock')" in text for text in texts)
