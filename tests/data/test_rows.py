"""Records to rows: five kinds, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon.data import Record, Row, make_row, with_answer
from kameleon.data.rows import kinds, learned_answers
from kameleon.errors import DataError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "clock", "arguments": {}}}]}


def row(**value):
    return make_row(Record(7, value))


def refusal(**value):
    with pytest.raises(DataError) as caught:
        row(**value)
    return str(caught.value)


def test_messages_are_kept_as_they_are():
    system = {"role": "system", "content": ""}
    assert row(messages=[system, USER, ANSWER]) == Row(7, (system, USER, ANSWER))


def test_tools_calls_and_their_results_are_kept():
    result = {"role": "tool", "content": "12:00"}
    got = row(messages=[USER, CALL, result, ANSWER], tools=[TOOL])
    assert got.messages == (USER, {**CALL, "content": None}, result, ANSWER) and got.tools == (TOOL,)


@pytest.mark.parametrize("broken", ['{"zone": "CE', "zone", "[" * 100_000], ids=["cut", "word", "deep"])
def test_a_call_whose_arguments_are_not_json_is_refused(broken):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": broken}}]}
    assert "the arguments of a call in message 2 are not JSON" in refusal(messages=[USER, call])


def test_prompt_and_completion_become_a_question_and_its_answer():
    got = row(prompt=" Hi ", completion=" Ho\n", also=["Hey", 3])
    assert got.messages == ({"role": "user", "content": " Hi "}, {"role": "assistant", "content": " Ho\n"})
    assert (got.prompt, got.completion, got.also) == (" Hi ", " Ho\n", ("Hey", "3"))


def test_another_right_answer_takes_the_place_of_the_completion():
    assert with_answer(row(prompt="Hi", completion="Ho", also=["Hey"]), "Hey") == row(prompt="Hi", completion="Hey")


def test_prompt_and_completion_may_be_messages():
    assert row(prompt=[USER], completion=[ANSWER]) == Row(7, (USER, ANSWER))
    earlier = row(prompt=[USER, ANSWER, USER], completion=[ANSWER])
    assert earlier == Row(7, (USER, ANSWER, USER, ANSWER), learned=frozenset([3]))
    assert row(prompt=[USER], completion=[ANSWER], tools=[TOOL]).tools == (TOOL,)


WHOLE = {
    "messages": {"messages": [USER, ANSWER]},
    "prompt": {"prompt": "Hi?", "completion": "Ho"},
    "instruction": {"instruction": "Hi!", "output": "Ho"},
    "conversations": {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho"}]},
    "text": {"text": "Below is …"},
}


@pytest.mark.parametrize("first", range(5))
def test_of_several_kinds_in_one_record_the_most_structured_is_taken(first):
    """As in the original Alpaca file, which has the rendered text too."""
    names = list(WHOLE)[first:]
    everything = {key: value for name in reversed(names) for key, value in WHOLE[name].items()}
    assert kinds(Record(7, everything)) == names
    assert row(**everything) == row(**WHOLE[names[0]])


def test_a_kind_that_is_not_whole_is_not_taken_before_one_that_is():
    assert row(prompt="Hi", instruction="Hi!", output="Ho") == row(instruction="Hi!", output="Ho")
    assert row(messages=None, instruction="Hi!", text="plain") == row(text="plain")
    assert kinds(Record(7, {"prompt": "Hi"})) == kinds(Record(7, {}, "broken")) == []


def test_an_empty_instruction_leaves_the_input():
    assert row(instruction="", input="Hi", output="Ho").prompt == "Hi"


def test_sharegpt_may_have_its_system_prompt_and_tools_beside_the_turns():
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    got = row(conversations=turns, system="S", tools=[TOOL])
    assert got == Row(7, ({"role": "system", "content": "S"}, USER, ANSWER), (TOOL,))


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input_asks_the_instruction(extra):
    assert row(instruction="Hi", output="Ho", **extra) == row(prompt="Hi", completion="Ho")


def test_alpaca_with_input_asks_both():
    assert row(instruction="Sum up:", input="Long.", output="Short.").prompt == "Sum up:\n\nLong."


def test_sharegpt_roles_are_translated():
    turns = [("system", "S"), ("human", "Q"), ("gpt", "A"), ("user", "Q"), ("tool", "T"), ("assistant", "A")]
    got = row(conversations=[{"from": who, "value": text} for who, text in turns])
    roles = ("system", "user", "assistant", "user", "tool", "assistant")
    assert got.messages == tuple({"role": r, "content": t} for r, (_, t) in zip(roles, turns, strict=True))


def test_text_is_kept_as_it_is():
    assert row(text=" plain\n") == Row(7, text=" plain\n")


def test_lists_may_be_written_as_json_text():
    assert row(messages='[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]') == row(
        messages=[USER, ANSWER]
    )
    assert row(prompt="Hi", completion="Ho", also='["Hey"]').also == ("Hey",)
    assert row(prompt="Hi", completion="Ho", also="").also == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"conversations": [], "messages": [], "text": "a"}, "no assistant message"),
        ({"prompt": "a", "instruction": "b"}, "'completion' is missing"),
        ({"ask": "a", "say": "b"}, "its fields are 'ask', 'say'; expected prompt and completion"),
        (
            {"promt": "a", "compltion": "b"},
            "'promt' (did you mean 'prompt'?), 'compltion' (did you mean 'completion'?)",
        ),
        ({"prompt": "a", "completon": "b"}, "'completion' is missing; its fields are 'prompt', 'completon' (did you"),
        ({"story": "a"}, "Rename it to 'text' if all of it is to be learned"),
        ({"ask": "a", "say": "b"}, "`reading=Reading(prompt_column=NAME, completion_column=NAME)`"),
        ({}, "its fields are none"),
        ({"prompt": "a"}, "'completion' is missing"),
        ({"prompt": "a", "completion": 3}, "'completion' is int"),
        ({"prompt": "a", "completion": " \n"}, "empty answer"),
        ({"prompt": "", "completion": "b"}, "'prompt' is empty"),
        ({"prompt": "a", "completion": "b", "also": ["c", " "]}, "empty answer ('also')"),
        ({"instruction": " ", "output": "b"}, "'instruction' is empty"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is int"),
        ({"instruction": "a", "output": ""}, "empty answer"),
        ({"instruction": "a"}, "'output' is missing"),
        ({"text": "  "}, "'text' is empty"),
        ({"text": None}, "'text' is missing"),
        ({"messages": "Hi"}, "not a JSON list"),
        ({"messages": {"role": "user"}}, "'messages' is dict"),
        ({"messages": ["Hi"]}, "message 1 is not an object"),
        ({"messages": [{"content": "Hi"}]}, "message 1 is not an object with a 'role'"),
        ({"messages": [USER, {"role": "bot", "content": "Ho"}]}, "unknown role 'bot' in message 2"),
        ({"messages": [USER]}, "no assistant message"),
        ({"messages": []}, "no assistant message"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty answer (message 2)"),
        ({"messages": [USER, {"role": "assistant"}]}, "empty answer (message 2)"),
        ({"messages": [{"role": "user"}, ANSWER]}, "message 1 has no text"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]}, "message 2 has no text"),
        ({"messages": [USER, ANSWER], "tools": "clock"}, "'tools' is text that is not a JSON list"),
        ({"messages": [USER, ANSWER], "tools": {"name": "clock"}}, "'tools' is dict"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "unknown role 'narrator'"),
        ({"conversations": [{"from": ["gpt"], "value": "a"}]}, "unknown role ['gpt']"),
        ({"conversations": [{"value": "a"}]}, "message 1 is not an object with a 'role' (or 'from')"),
        ({"conversations": [{"role": "user", "content": "a"}]}, "no assistant message"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}, "empty answer"),
        ({"prompt": [USER]}, "'completion' is missing"),
        ({"prompt": [USER], "completion": "Ho"}, "'completion' is text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(value, reason):
    assert reason in refusal(**value)


def test_a_fault_of_the_file_is_the_reason():
    with pytest.raises(DataError, match="broken JSON at column 3"):
        make_row(Record(7, {}, "broken JSON at column 3"))


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt", "bot"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["[]", "[{}]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "tool_calls"]), inner | ROLES, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = ["messages", "tools", "prompt", "completion", "instruction", "input", "output", "conversations", "text", "also"]


@settings(max_examples=200)
@given(value=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3))
def test_each_record_is_a_row_with_text_answers_or_a_data_error(value):
    try:
        got = make_row(Record(7, value))
    except DataError:
        return
    assert got.number == 7 and (got.text is None) == bool(got.messages)
    for message in got.messages:
        assert isinstance(message["content"], str) or message["tool_calls"]
    assert all(got.messages[place]["role"] == "assistant" for place in learned_answers(got))
