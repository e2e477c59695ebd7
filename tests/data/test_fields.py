"""What stands beside the turns of a row, and other names for them: read, refused or told, never lost without a word."""

import json
import math

import pytest
from data.chat_templates import learned
from data.records import pair, records

from kameleon.data import Record, Row, encode_records, examine, make_row, observe
from kameleon.data.rows import learned_answers, unread_fields
from kameleon.errors import DataError

ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
MORE, LAST = {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Hum"}
SYSTEM = {"role": "system", "content": "S"}
FUNCTION = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "clock", "arguments": {"zone": None}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}


def row(**value):
    return make_row(Record(7, value))


def unread(**value):
    return unread_fields(Record(7, value))


@pytest.mark.parametrize("field", ["messages", "conversations"])
@pytest.mark.parametrize("nought", [0, 0.0, False])
def test_an_answer_of_weight_0_is_context_and_the_others_are_learned(chatml, field, nought):
    turns = [ASK, {**SAY, "weight": nought}, MORE, {**LAST, "weight": 1}]
    if field == "conversations":
        names = {"role": "from", "content": "value"}
        turns = [{names.get(key, key): value for key, value in turn.items()} for turn in turns]
    got = row(**{field: turns})
    assert got == Row(7, (ASK, SAY, MORE, LAST), learned=frozenset([3]))
    (example,) = encode_records(records({field: turns}), chatml).examples
    assert learned(chatml, example) == ["Hum<|im_end|>"]


def test_a_row_in_which_all_weights_are_0_is_left_out_and_told(chatml):
    encoded = encode_records(records({"messages": [ASK, {**SAY, "weight": 0}]}, pair("a")), chatml)
    told = ["all masked: none of its tokens would be learned (each answer has weight 0)"]
    assert [fault.reason for fault in examine(encoded)] == told
    observe(encoded, chatml, test_rows=encoded.rows)


def test_rows_that_differ_in_what_is_learned_are_no_duplicates(chatml):
    two = [{"messages": [ASK, {**SAY, "weight": weight}, MORE, LAST]} for weight in (0, 1)]
    assert examine(encode_records(records(*two), chatml)) == ()


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASK, {**SAY, "weight": 0.5}], "message 2 has weight 0.5; it is 0"),
        ([ASK, {**SAY, "weight": "0"}], "message 2 has weight '0'"),
        ([{**ASK, "weight": 1}, SAY], "message 1 has weight 1, but only the assistant's"),
        ([ASK, {**SAY, "train": False}], "message 2 has 'train', which is not known here; an answer of 'weight' 0"),
        ([{**ASK, "from": "human"}, SAY], "message 1 holds both OpenAI's names"),
        ([ASK, {**CALLING, "function_call": CALL}], "message 2 holds both 'function_call' and 'tool_calls'"),
        ([ASK, {"from": "function_call", "value": "clock()"}], "message 2 is the call of a function, but not in JSON"),
        ([ASK, {"from": "function_call", "value": "[]"}], "message 2 is the call of a function, but not an object"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, SAY], "but 'image_url'"),
        ([ASK, {**SAY, "tool_calls": ["clock"]}], "message 2 is the call of a function, but not an object"),
        ([ASK, {**SAY, "tool_calls": [{"function": {"name": "clock"}}]}], "with 'name' and 'arguments'"),
        ([ASK, {**SAY, "reasoning_content": [{"text": "Hm."}]}], "message 2 has no text in 'reasoning_content'"),
    ],
)
def test_what_a_message_says_and_cannot_be_done_is_refused(turns, reason):
    with pytest.raises(DataError) as caught:
        row(messages=turns)
    assert reason in str(caught.value)


def test_of_a_prompt_of_messages_an_answer_cannot_have_weight_1():
    with pytest.raises(DataError, match="'prompt' has weight 1, but only 'completion' is learned"):
        row(prompt=[ASK, {**SAY, "weight": 1}, MORE], completion=[LAST])
    assert row(prompt=[ASK, {**SAY, "weight": 0}, MORE], completion=[LAST]).learned == {3}


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "value",
    [
        {"messages": [ASK, SAY]},
        {"conversations": [ASK, SAY]},
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": "Hi", "completion": "Ho"},
        {"instruction": "Hi", "output": "Ho"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_system_prompt_beside_the_turns_is_the_first_message(value, name):
    assert row(**value, **{name: "S"}).messages == (SYSTEM, ASK, SAY)
    for nothing in ("", None, math.nan):
        assert row(**value, **{name: nothing}) == row(**value)


def test_of_two_system_prompts_equal_ones_are_one_and_others_are_refused():
    assert row(messages=[SYSTEM, ASK, SAY], system="S").messages == (SYSTEM, ASK, SAY)
    for more in ({"messages": [SYSTEM, ASK, SAY], "system": "T"}, {**pair("a"), "system": "S", "system_prompt": "T"}):
        with pytest.raises(DataError, match="two system prompts"):
            row(**more)


def test_places_of_what_is_learned_move_with_the_system_prompt():
    got = row(messages=[ASK, {**SAY, "weight": 0}, MORE, LAST], system="S")
    assert learned_answers(got) == [4]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("kind", [("prompt", "completion"), ("instruction", "output")])
def test_the_history_of_a_question_holds_earlier_turns(kind, as_text):
    asked, answered = kind
    history = [["Hi", "Ho"]]
    got = row(**{asked: "And?", answered: "Hum"}, history=json.dumps(history) if as_text else history, system="S")
    assert got.messages == (SYSTEM, ASK, SAY, MORE, LAST) and learned_answers(got) == [2, 4]
    assert row(**{asked: "And?", answered: "Hum"}, history=[]) == row(prompt="And?", completion="Hum")


def test_another_right_answer_keeps_what_stands_before_it(chatml):
    value = {"prompt": "And?", "completion": "Hum", "history": [["Hi", "Ho"]], "also": ["Hm"]}
    encoded = encode_records(records(value), chatml)
    assert learned(chatml, encoded.alternatives[0][0]) == ["Ho<|im_end|>", "Hm<|im_end|>"]


@pytest.mark.parametrize("more", [{"system": "S"}, {"history": [["Hi", "Ho"]]}, {"tools": [FUNCTION]}])
def test_raw_has_no_place_for_what_stands_beside_prompt_and_completion(chatml, more):
    encoded = encode_records(records({**pair("a"), **more}), chatml, raw=True)
    assert "needs prompt and completion as text alone" in encoded.refused[0].reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"messages": [ASK, SAY], "history": [["a", "b"]]}, "'history' is not read beside 'messages'"),
        ({"conversations": [ASK, SAY], "also": ["b"]}, "'also' is not read beside 'conversations'"),
        ({"prompt": "a", "completion": "b", "input": "c"}, "'input' is not read beside 'prompt': put it into the"),
        ({"text": "a", "weight": 0}, "'weight' is not read beside 'text': rows cannot be weighted"),
        ({**pair("a"), "history": ["b"]}, "'history' holds what is no pair"),
        ({**pair("a"), "history": [["b", None]]}, "'history' holds what is no pair"),
        ({**pair("a"), "system": 3}, "'system' is int; expected text"),
        ({**pair("a"), "tools": [FUNCTION], "functions": [FUNCTION]}, "both 'tools' and 'functions'"),
        ({**pair("a"), "tools": ["clock"]}, "'tools' holds what is no object"),
    ],
)
def test_a_field_that_would_change_what_is_learned_is_read_or_refused(value, reason):
    with pytest.raises(DataError) as caught:
        row(**value)
    assert reason in str(caught.value)


def test_a_field_of_another_kind_that_is_whole_is_no_fault():
    """A record may hold its row in several ways; which was taken is told."""
    alpaca = {"instruction": "a", "input": "b", "output": "c"}
    assert row(**pair("a"), **alpaca) == row(**pair("a"))
    assert unread(**pair("a"), **alpaca) == unread(**alpaca, text="a b c") == []


def test_fields_that_hold_something_and_are_not_read_are_named_and_counted(chatml):
    assert unread(text="plain", id=3, source="here", label=None, tags=[], note="") == ["id", "source"]
    assert unread(messages=[{**ASK, "score": 3, "refusal": None}, SAY]) == ["messages[].score"]
    assert unread(messages=[{**ASK, "name": "Bob"}, SAY]) == ["messages[].name"]
    result = {"role": "tool", "name": "clock", "content": "12"}
    assert unread(messages=[ASK, {"role": "function", "name": "clock", "content": "12"}, result, SAY]) == []
    assert unread(messages=json.dumps([{**ASK, "score": 3}, SAY])) == ["messages[].score"]
    assert unread(messages=[{**ASK, "thinking": "Hm."}, {**SAY, "thinking": "Hm."}]) == ["messages[].thinking"]
    assert unread(prompt='[{"score": 3}]', completion="text that looks like turns") == []
    part = {"type": "text", "text": "Hi", "citations": ["a"]}
    assert unread(messages=[{**ASK, "content": [part]}, SAY]) == ["messages[].content[].citations"]
    strange = [{**CALLING, "tool_calls": [{"function": {**CALL, "result": 3}, "cost": 4}]}]
    assert unread(messages=[ASK, *strange]) == ["messages[].tool_calls[].cost", "messages[].tool_calls[].result"]
    assert unread(**pair("a"), tools=[{"name": "f", "input_schema": {}}]) == ["tools[].input_schema"]
    assert unread(text="plain", prompt="half") == ["prompt"]
    assert unread(question="a") == unread_fields(Record(7, {}, "broken")) == []
    rows = [*records(*(pair(str(n), id=n) for n in range(3))), Record(4, {"messages": [{**ASK, "score": 1}, SAY]})]
    encoded = encode_records([*rows, Record(5, pair("5", sytem="S"))], chatml)
    assert encoded.refused == () and encoded.unread == {"id": 3, "messages[].score": 1, "sytem": 1}
    (told,) = [one.text for one in observe(encoded, chatml) if one.kind == "unread_fields"]
    assert "not read, so nothing of them is learned: 'id' in 3 rows, 'sytem' in 1 row (did you mean 'system'?)" in told
    assert "only a chat template reads them: 'messages[].score' in 1 row" in told


def test_a_field_that_stops_the_row_is_told_there_alone(chatml):
    encoded = encode_records(records({**pair("a"), "weight": 0.5}), chatml)
    assert "'weight' is not read beside 'prompt'" in encoded.refused[0].reason and encoded.unread == {}


def test_tools_that_all_rows_share_are_told_since_no_adapter_keeps_them(chatml):
    rows = [{"messages": [ASK, {**SAY, "content": str(n)}], "tools": [FUNCTION]} for n in range(3)]
    (told,) = [
        one.text for one in observe(encode_records(records(*rows), chatml), chatml) if one.kind == "shared_tools"
    ]
    assert "all rows have the same tools ('clock'), which the adapter does not keep" in told
    mixed = encode_records(records(*rows, pair("a")), chatml)
    assert "shared_tools" not in {one.kind for one in observe(mixed, chatml)}


def test_functions_are_tools_and_bare_ones_get_openais_form():
    wrapped = {"type": "function", "function": FUNCTION}
    for value in ({"tools": [FUNCTION]}, {"functions": [FUNCTION]}, {"tools": json.dumps([wrapped])}):
        assert row(messages=[ASK, SAY], **value).tools == (wrapped,)
    assert row(**pair("a"), tools=[wrapped]).tools == (wrapped,)


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": json.dumps(CALL)},
        {"role": "tool_call", "content": json.dumps([CALL])},
        {"role": "assistant", "function_call": CALL},
        {"role": "assistant", "content": None, "function_call": json.dumps(CALL), "tool_calls": None},
        {**CALLING, "tool_calls": [CALL]},
        {**CALLING, "tool_calls": json.dumps(CALLING["tool_calls"])},
        {**CALLING, "tool_calls": CALLING["tool_calls"][0]},
        CALLING,
    ],
    ids=["ShareGPT", "a list", "OpenAI's older", "as text", "bare", "a list as text", "no list", "OpenAI's"],
)
@pytest.mark.parametrize("result", ["observation", "function", "tool", "tool_response"])
def test_calls_and_their_results_may_be_written_in_several_ways(turn, result):
    got = row(conversations=[ASK, turn, {"from": result, "value": "12:00"}, SAY])
    assert got.messages == (ASK, CALLING, {"role": "tool", "content": "12:00"}, SAY)


def test_names_of_openai_and_sharegpt_may_stand_in_either_field():
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    assert row(messages=turns) == row(conversations=[ASK, SAY]) == row(messages=[ASK, SAY])
    assert row(prompt=turns[:1], completion=turns[1:]) == row(messages=[ASK, SAY])


def test_a_developers_message_is_a_system_message_as_in_a_request():
    assert row(messages=[{"role": "developer", "content": "S"}, ASK, SAY]).messages == (SYSTEM, ASK, SAY)


def test_text_in_parts_is_joined_as_in_a_request():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert row(messages=[{**ASK, "content": parts}, SAY]).messages == (ASK, SAY)


@pytest.mark.parametrize("nothing", [" ", "\n", "", None, math.nan])
def test_an_input_that_says_nothing_leaves_the_instruction(nothing):
    assert row(instruction="Hi", input=nothing, output="Ho") == row(prompt="Hi", completion="Ho")


def test_a_cell_that_is_not_a_number_is_no_answer():
    with pytest.raises(DataError, match="'output' is missing"):
        row(instruction="Hi", output=math.nan)
