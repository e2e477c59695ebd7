"""Files of records to examples: which rows they become, and which are refused."""

import pytest
from data.chat_templates import STRIPPING, learned, make_tokenizer
from data.records import chat, pair, records
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon.data import Record, encode_records, encode_row, examine, make_row, observe, require_trainable
from kameleon.errors import DataError
from kameleon.text import ChatTemplate


def test_each_record_is_an_example_in_the_order_of_the_file(chatml):
    encoded = encode_records(records(pair("a"), {"text": "b"}), chatml)
    assert encoded.refused == () and [r.number for r in encoded.rows] == [1, 2]
    assert encoded.tokens == sum(len(e.tokens) for e in encoded.examples)
    assert encoded.trained_tokens == 3 + 1  # nothing precedes a text's first token


def test_the_lengths_of_the_rows_are_told_by_their_places(chatml):
    encoded = encode_records(records(*(pair("a" * n) for n in range(1, 12)), pair("a", "")), chatml)
    shortest = len(encode_row(make_row(Record(1, pair("a"))), chatml).tokens)
    assert encoded.row_tokens() == {
        "shortest": shortest,
        "median": shortest + 5,
        "p90": shortest + 9,
        "longest": shortest + 10,
    }
    assert (len(encoded.rows), encoded.tokens) == (11, 11 * shortest + 55)
    assert encoded.trained_tokens == 11 * 3
    assert [(f.row, f.reason, f.fatal) for f in encoded.refused] == [(12, "empty answer ('completion')", True)]


def test_no_records_have_no_lengths(chatml):
    assert encode_records([], chatml).row_tokens() == {"shortest": 0, "median": 0, "p90": 0, "longest": 0}


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
def test_each_record_is_an_example_or_a_fatal_fault(chatml, llama3, value, raw):
    for template in (chatml, llama3):
        encoded = encode_records([Record(3, value)], template, raw=raw)
        assert len(encoded.examples) + len(encoded.refused) == 1
        examine(encoded)
        observe(encoded, template, test_rows=encoded.rows)


def test_rows_are_trainable_when_one_of_them_is(chatml):
    good, masked = (encode_row(make_row(Record(1, pair("a"))), chatml, max_tokens=n) for n in (100, 5))
    require_trainable([masked, good])
    for hopeless in ([masked, masked], []):
        with pytest.raises(DataError, match=f"none of the {len(hopeless)} rows has a token to learn"):
            require_trainable(hopeless)


def test_where_the_template_rewrites_earlier_turns_each_answer_is_a_row_of_its_own(rewriting):
    turns = [("user", "Hi"), ("assistant", "Ho"), ("user", "And?"), ("assistant", "Hum"), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    encoded = encode_records([Record(3, {"messages": messages})], rewriting)
    assert (encoded.split, encoded.refused) == (1, ())
    assert [row.number for row in encoded.rows] == [3, 3]
    assert [learned(rewriting, example) for example in encoded.examples] == [
        ["<think>\n\n</think>\n\nHo<|im_end|>"],
        ["<think>\n\n</think>\n\nHum<|im_end|>"],
    ]
    for at, example in zip((1, 3), encoded.examples, strict=True):  # each prompt as it is at generation
        asked = rewriting.encode_prompt(messages[:at])
        assert example.tokens[: len(asked)] == asked


def test_an_answer_is_learned_with_its_thinking_behind_answers_that_have_lost_theirs():
    stripping = ChatTemplate(make_tokenizer(STRIPPING))
    thoughtful = chat(
        ("user", "1?"), ("assistant", "<think>a</think>A"), ("user", "2?"), ("assistant", "<think>b</think>B")
    )
    plain = chat(("user", "1?"), ("assistant", "A"), ("user", "2?"), ("assistant", "B"))
    encoded = encode_records(records(thoughtful, plain, pair("3?", "<think>c</think>C")), stripping)
    assert (encoded.split, encoded.refused) == (1, ())
    assert [e.row for e in encoded.examples] == [1, 1, 2, 3]  # only the row that needs it is split
    assert [learned(stripping, e) for e in encoded.examples] == [
        ["<think>a</think>A<|im_end|>"],
        ["<think>b</think>B<|im_end|>"],
        ["A<|im_end|>", "B<|im_end|>"],
        ["<think>c</think>C<|im_end|>"],
    ]
    seen = stripping.tokenizer.decode(encoded.examples[1].tokens)
    assert "A<|im_end|>" in seen and "<think>a" not in seen


def test_of_a_prompt_of_messages_no_answer_becomes_a_row_of_its_own():
    stripping = ChatTemplate(make_tokenizer(STRIPPING))
    turns = chat(("user", "1?"), ("assistant", "<think>a</think>A"), ("user", "2?"), ("assistant", "<think>b</think>B"))
    messages = turns["messages"]
    for cut, answers in (
        (3, [["<think>b</think>B<|im_end|>"]]),
        (1, [["<think>a</think>A<|im_end|>"], ["<think>b</think>B<|im_end|>"]]),
    ):
        encoded = encode_records(records({"prompt": messages[:cut], "completion": messages[cut:]}), stripping)
        assert [learned(stripping, e) for e in encoded.examples] == answers
        assert encoded.split == len(answers) - 1


def test_records_that_hold_several_kinds_of_row_are_counted(chatml):
    alpaca = [{"instruction": f"{i}?", "output": "Ho", "text": f"Below: {i}? Ho"} for i in range(3)]
    chats = [{**chat(("user", "4?"), ("assistant", "Ho")), "prompt": "4?", "completion": "Ho"}]
    encoded = encode_records(records(*alpaca, *chats, pair("5?")), chatml)
    assert encoded.refused == () and encoded.mixed == {("instruction", "text"): 3, ("messages", "prompt"): 1}
    assert encode_records(records(pair("5?")), chatml).mixed == {}
