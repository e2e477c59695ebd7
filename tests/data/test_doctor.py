"""The data doctor: every fault by its row's number."""

import json

from data.records import chat, pair, records

from kameleon.data import Fault, Record, by_reason, encode_records, encode_row, examine, make_row, read_records


def faults_of(values, template, **more):
    return examine(encode_records(records(*values), template, **more))


def test_good_rows_have_no_fault(chatml):
    assert faults_of([pair("a"), {"text": "b"}], chatml) == ()


def test_every_bad_row_is_named_in_the_order_of_the_file(chatml, write):
    lines = [
        json.dumps(pair("fine")),
        json.dumps(pair("p" * 200)),
        json.dumps(pair("empty", " ")),
        json.dumps(pair("long", "x" * 200)),
        json.dumps(pair("fine")),
        json.dumps(pair("tested")),
        json.dumps(chat(("user", "a"), ("bot", "b"))),
        '{"prompt": "a", ',
        json.dumps({"question": "a"}),
        json.dumps(pair("last")),
    ]
    test_rows = [make_row(Record(40, pair("tested")))]
    encoded = encode_records(read_records(write("\n".join(lines).encode())), chatml, max_tokens=100)
    faults = examine(encoded, test_rows)
    wanted = [
        (
            2,
            "all masked: none of its tokens would be learned (its prompt fills all tokens that a row may have: "
            "raise `max_row_tokens=N`, or shorten the prompt)",
            False,
        ),
        (3, "empty answer ('completion')", True),
        (4, "truncated: its last ", False),
        (5, "duplicate of row 1", False),
        (6, "also stands in the test set (row 40)", False),
        (7, "unknown role 'bot' in message 2", True),
        (8, "broken JSON at column ", True),
        (9, "its fields are 'question'", True),
    ]
    assert [(f.row, f.fatal) for f in faults] == [(number, fatal) for number, _, fatal in wanted]
    for fault, (_, reason, _) in zip(faults, wanted, strict=True):
        assert fault.reason.startswith(reason)
    assert [r.number for r in encoded.rows] == [e.row for e in encoded.examples] == [1, 2, 4, 5, 6, 10]


def test_a_cut_answer_says_how_much_is_lost(chatml):
    whole = encode_row(make_row(Record(1, pair("a", "x" * 20))), chatml)
    faults = faults_of([pair("a", "x" * 20)], chatml, max_tokens=len(whole.tokens) - 5)
    assert [f.reason for f in faults] == [
        "truncated: its last 5 tokens do not fit, so its answer has no end: raise `max_row_tokens=N`"
    ]


def test_an_answer_whose_end_still_fits_is_not_called_truncated(chatml):
    whole = encode_row(make_row(Record(1, pair("a"))), chatml)
    assert faults_of([pair("a")], chatml, max_tokens=len(whole.tokens) - 1) == ()


def test_each_repetition_names_the_first_row_of_its_content(chatml):
    """However it is written: the kinds are compared as conversations."""
    same = {"instruction": "a", "output": "Ho"}
    faults = faults_of([pair("a"), pair("b"), same, pair("a"), pair("a ")], chatml)
    assert faults == tuple(Fault(row, "duplicate of row 1", fatal=False) for row in (3, 4))


def test_a_row_with_other_tools_is_no_duplicate(chatml):
    messages = chat(("user", "a"), ("assistant", "b"))
    tools = [[{"type": "function", "function": {"name": name}}] for name in ("one", "two")]
    assert faults_of([{**messages, "tools": t} for t in tools], chatml) == ()


def test_a_field_that_json_cannot_hold_does_not_stop_the_doctor(chatml):
    """Parquet has dates and bytes."""
    row = chat(("user", "a"), ("assistant", "b"))
    row["messages"][0]["picture"] = b"\x00"
    assert faults_of([row], chatml) == ()


def test_the_same_reason_is_told_once_with_the_numbers_of_its_rows():
    faults = [
        Fault(1, "cut", fatal=False),
        *(Fault(n, "no prompt", fatal=True) for n in range(2, 62)),
        Fault(70, "empty", fatal=True),
    ]
    told = [(numbers, fault.reason) for numbers, fault in by_reason(faults)]
    assert told == [("2, 3, 4 and 57 more", "no prompt"), ("70", "empty"), ("1", "cut")]
