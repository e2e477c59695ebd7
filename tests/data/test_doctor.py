"""The data doctor: every fault by its row's number."""

import json

import pytest
from data.chat_templates import STRIPPING, learned, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon.data import (
    Fault,
    Record,
    by_reason,
    colour_mask,
    encode_row,
    examine,
    make_row,
    observe,
    read_records,
    require_trainable,
)
from kameleon.errors import DataError
from kameleon.text import ChatTemplate


def pair(prompt, completion="Ho"):
    return {"prompt": prompt, "completion": completion}


def records(*values):
    return [Record(i, value) for i, value in enumerate(values, start=1)]


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_good_rows_have_no_fault(chatml):
    examined = examine(records(pair("a"), {"text": "b"}), chatml)
    assert examined.faults == () and [r.number for r in examined.rows] == [1, 2]
    assert examined.tokens == sum(len(e.tokens) for e in examined.examples)
    assert examined.trained_tokens == 3 + 1  # nothing precedes a text's first token


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
    examined = examine(read_records(write("\n".join(lines).encode())), chatml, max_tokens=100, test_rows=test_rows)
    wanted = [
        (2, "all masked: none of its tokens would be learned (the prompt fills it)", False),
        (3, "empty answer ('completion')", True),
        (4, "truncated: its last ", False),
        (5, "duplicate of row 1", False),
        (6, "also stands in the test set (row 40)", False),
        (7, "unknown role 'bot' in message 2", True),
        (8, "broken JSON at column ", True),
        (9, "it has only question", True),
    ]
    assert [(f.row, f.fatal) for f in examined.faults] == [(number, fatal) for number, _, fatal in wanted]
    for fault, (_, reason, _) in zip(examined.faults, wanted, strict=True):
        assert fault.reason.startswith(reason)
    assert [r.number for r in examined.rows] == [e.row for e in examined.examples] == [1, 2, 4, 5, 6, 10]


def test_a_cut_answer_says_how_much_is_lost(chatml):
    whole = encode_row(make_row(Record(1, pair("a", "x" * 20))), chatml)
    examined = examine(records(pair("a", "x" * 20)), chatml, max_tokens=len(whole.tokens) - 5)
    assert [f.reason for f in examined.faults] == ["truncated: its last 5 tokens do not fit, so its answer has no end"]


def test_an_answer_whose_end_still_fits_is_not_called_truncated(chatml):
    whole = encode_row(make_row(Record(1, pair("a"))), chatml)
    assert examine(records(pair("a")), chatml, max_tokens=len(whole.tokens) - 1).faults == ()


def test_each_repetition_names_the_first_row_of_its_content(chatml):
    """However it is written: the kinds are compared as conversations."""
    same = {"instruction": "a", "output": "Ho"}
    examined = examine(records(pair("a"), pair("b"), same, pair("a"), pair("a ")), chatml)
    assert examined.faults == (Fault(3, "duplicate of row 1", False), Fault(4, "duplicate of row 1", False))


def test_a_row_with_other_tools_is_no_duplicate(chatml):
    messages = chat(("user", "a"), ("assistant", "b"))
    tools = [[{"type": "function", "function": {"name": name}}] for name in ("one", "two")]
    assert examine(records(*({**messages, "tools": t} for t in tools)), chatml).faults == ()


def test_a_field_that_json_cannot_hold_does_not_stop_the_doctor(chatml):
    """Parquet has dates and bytes."""
    row = chat(("user", "a"), ("assistant", "b"))
    row["messages"][0]["picture"] = b"\x00"
    assert examine(records(row), chatml).faults == ()


def test_the_report_for_programs_is_json(chatml):
    examined = examine(records(*(pair("a" * n) for n in range(1, 12)), pair("a", "")), chatml)
    report = json.loads(json.dumps(examined.to_json()))
    shortest = len(encode_row(make_row(Record(1, pair("a"))), chatml).tokens)
    assert report["row_tokens"] == {
        "shortest": shortest,
        "median": shortest + 5,
        "p90": shortest + 9,
        "longest": shortest + 10,
    }
    assert (report["rows"], report["tokens"]) == (11, 11 * shortest + 55)
    assert report["trained_tokens"] == 11 * 3
    assert report["faults"] == [{"row": 12, "reason": "empty answer ('completion')", "fatal": True}]


def test_no_rows_make_an_empty_report(chatml):
    assert examine([], chatml).to_json()["row_tokens"] == {"shortest": 0, "median": 0, "p90": 0, "longest": 0}


@settings(max_examples=50)
@given(
    value=st.dictionaries(
        st.sampled_from(["messages", "tools", "prompt", "completion", "text"]),
        st.recursive(
            st.none() | st.integers() | st.text(st.characters(), max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "system"])},
                    optional={"content": st.text(st.characters(), max_size=3) | inner, "tool_calls": inner},
                )
            ),
            max_leaves=5,
        ),
        max_size=2,
    ),
    raw=st.booleans(),
)
def test_whatever_a_record_holds_it_is_an_example_or_a_fatal_fault(chatml, llama3, value, raw):
    for template in (chatml, llama3):
        examined = examine([Record(3, value)], template, raw)
        assert len(examined.examples) + sum(f.fatal for f in examined.faults) == 1
        observe(examined, template, examined.rows)


def test_rows_are_trainable_when_one_of_them_is(chatml):
    good, masked = (encode_row(make_row(Record(1, pair("a"))), chatml, max_tokens=n) for n in (100, 5))
    require_trainable([masked, good])
    for hopeless in ([masked, masked], []):
        with pytest.raises(DataError, match=f"none of the {len(hopeless)} rows has a token to learn"):
            require_trainable(hopeless)


def test_the_coloured_mask_marks_the_learned_tokens_and_no_others(chatml):
    shown = colour_mask(encode_row(make_row(Record(1, pair("Hi", "Yo"))), chatml), chatml)
    green = [shown.plain[s.start : s.end] for s in shown.spans if "green" in str(s.style)]
    grey = [shown.plain[s.start : s.end] for s in shown.spans if "bright_black" in str(s.style)]
    assert green == ["Y", "o", "<|im_end|>"]
    assert "".join(grey).replace("⏎", "") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n"
    assert shown.plain.endswith("│⏎\n│Y┃o┃<|im_end|>┃⏎\n│"), "which tokens they are shows without colour too"
    assert shown.plain.replace("│", "").replace("┃", "").replace("⏎", "") == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )


def test_where_the_template_rewrites_earlier_turns_each_answer_is_a_row_of_its_own(rewriting):
    turns = [("user", "Hi"), ("assistant", "Ho"), ("user", "And?"), ("assistant", "Hum"), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    examined = examine([Record(3, {"messages": messages})], rewriting)
    assert (examined.split, examined.faults) == (1, ())
    assert [row.number for row in examined.rows] == [3, 3]
    assert [learned(rewriting, example) for example in examined.examples] == [
        ["<think>\n\n</think>\n\nHo<|im_end|>"],
        ["<think>\n\n</think>\n\nHum<|im_end|>"],
    ]
    for at, example in zip((1, 3), examined.examples, strict=True):  # each prompt as it is at generation
        asked = rewriting.encode_prompt(messages[:at])
        assert example.tokens[: len(asked)] == asked


def test_an_answer_is_learned_with_its_thinking_behind_answers_that_have_lost_theirs():
    stripping = ChatTemplate(make_tokenizer(STRIPPING))
    thoughtful = chat(
        ("user", "1?"), ("assistant", "<think>a</think>A"), ("user", "2?"), ("assistant", "<think>b</think>B")
    )
    plain = chat(("user", "1?"), ("assistant", "A"), ("user", "2?"), ("assistant", "B"))
    examined = examine(records(thoughtful, plain, pair("3?", "<think>c</think>C")), stripping)
    assert (examined.split, examined.faults, examined.to_json()["split"]) == (1, (), 1)
    assert [e.row for e in examined.examples] == [1, 1, 2, 3]  # only the row that needs it is split
    assert [learned(stripping, e) for e in examined.examples] == [
        ["<think>a</think>A<|im_end|>"],
        ["<think>b</think>B<|im_end|>"],
        ["A<|im_end|>", "B<|im_end|>"],
        ["<think>c</think>C<|im_end|>"],
    ]
    seen = stripping.tokenizer.decode(examined.examples[1].tokens)
    assert "A<|im_end|>" in seen and "<think>a" not in seen


def test_of_a_prompt_of_messages_no_answer_becomes_a_row_of_its_own():
    stripping = ChatTemplate(make_tokenizer(STRIPPING))
    turns = chat(("user", "1?"), ("assistant", "<think>a</think>A"), ("user", "2?"), ("assistant", "<think>b</think>B"))
    messages = turns["messages"]
    for cut, answers in (
        (3, [["<think>b</think>B<|im_end|>"]]),
        (1, [["<think>a</think>A<|im_end|>"], ["<think>b</think>B<|im_end|>"]]),
    ):
        examined = examine(records({"prompt": messages[:cut], "completion": messages[cut:]}), stripping)
        assert [learned(stripping, e) for e in examined.examples] == answers
        assert examined.split == len(answers) - 1


def test_records_that_hold_several_kinds_of_row_are_counted(chatml):
    alpaca = [{"instruction": f"{i}?", "output": "Ho", "text": f"Below: {i}? Ho"} for i in range(3)]
    chats = [{**chat(("user", "4?"), ("assistant", "Ho")), "prompt": "4?", "completion": "Ho"}]
    examined = examine(records(*alpaca, *chats, pair("5?")), chatml)
    assert examined.faults == () and examined.mixed == {("instruction", "text"): 3, ("messages", "prompt"): 1}
    assert examined.to_json()["mixed"][0] == {"taken": "instruction", "left": ["text"], "rows": 3}
    assert examine(records(pair("5?")), chatml).to_json()["mixed"] == []


def test_the_same_reason_is_told_once_with_the_numbers_of_its_rows():
    faults = [Fault(1, "cut", False), *(Fault(n, "no prompt", True) for n in range(2, 62)), Fault(70, "empty", True)]
    told = [(numbers, fault.reason) for numbers, fault in by_reason(faults)]
    assert told == [("2, 3, 4 and 57 more", "no prompt"), ("70", "empty"), ("1", "cut")]
