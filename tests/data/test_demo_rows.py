"""The rows that the demo learns from: readable, whole, and held out by group."""

from pathlib import Path

import pytest

from kameleon.data import make_row, read_records

DATA = Path(__file__).parents[2] / "examples" / "demo" / "data"
COUNTS = {"law": (1470, 264), "code": (5323, 1000), "polish": (7684, 1000)}


def values(skill, side):
    return [record.value for record in read_records(DATA / skill / f"{side}.jsonl")]


@pytest.mark.parametrize("skill", list(COUNTS))
def test_every_row_is_a_question_with_its_answer(skill):
    for side, count in zip(("train", "test"), COUNTS[skill], strict=True):
        rows = [make_row(record) for record in read_records(DATA / skill / f"{side}.jsonl")]
        assert len(rows) == count
        assert all(row.prompt and row.completion and row.completion.startswith(" ") for row in rows)


def test_no_question_is_on_both_sides():
    for skill in COUNTS:
        assert not {v["prompt"] for v in values(skill, "train")} & {v["prompt"] for v in values(skill, "test")}


def test_no_package_and_no_noun_is_on_both_sides():
    package = {side: {value["file"].split("/")[0] for value in values("code", side)} for side in ("train", "test")}
    noun = {side: {value["prompt"].split(" | ")[0] for value in values("polish", side)} for side in ("train", "test")}
    assert not package["train"] & package["test"] and not noun["train"] & noun["test"]


def test_every_package_is_named_in_the_notice():
    notice = (DATA / "NOTICE").read_text()
    files = [value["file"].split("/") for side in ("train", "test") for value in values("code", side)]
    names = {parts[2] if parts[:2] == ["pip", "_vendor"] else parts[0] for parts in files}
    assert not [name for name in names if name not in notice]
