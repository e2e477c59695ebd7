"""On the templates of published bases: each field of a row is learned as it says, told, or refused; nulls too."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from data.records import records
from hypothesis import given, settings
from hypothesis import strategies as st
from text.published_templates import PUBLISHED

from kameleon.data import encode_records, read_records
from kameleon.data.columns import KNOWN_FIELDS

MADE = {name: one.make() for name, one in PUBLISHED.items() if name != "Llama Guard 3"}  # which answers nobody
ASK, SAY = {"role": "user", "content": "Qask"}, {"role": "assistant", "content": "Asay"}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "clock", "arguments": {"zone": "CET"}}}
CALLED = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12", "tool_call_id": "abcdef123"},
    SAY,
]


def clock(properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": "clock", "description": "d", "parameters": parameters}}


KINDS = {
    "messages": {"messages": CALLED, "tools": [clock({"zone": {"type": "string"}})]},
    "messages without calls": {"messages": [ASK, SAY]},
    "prompt": {"prompt": "Qask", "completion": "Asay"},
    "messages as prompt": {"prompt": [ASK], "completion": [SAY]},
    "instruction": {"instruction": "Qask", "output": "Asay"},
    "conversations": {"conversations": [{"from": "human", "value": "Qask"}, {"from": "gpt", "value": "Asay"}]},
    "text": {"text": "Qask"},
}
READ = {
    *KNOWN_FIELDS,
    *("role", "content", "from", "value", "weight", "name", "type", "text", "id", "index", "function", "arguments"),
    *("tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "thinking"),
    *("description", "parameters", "strict"),
}
KEYS = st.sampled_from(["sytem", "wieght", "train", "loss", "score", "Weight", "lable", "notes", "zażółć"]) | st.text(
    "aberstz_", min_size=1, max_size=7
).filter(lambda key: key not in READ)
VALUES = st.sampled_from(["Vword", 3, 0.5, True, ["Vword"], {"a": "Vword"}])


def objects(value, path=""):
    """Each object in a row that may get a further field, with the path by which it is told."""
    found = [(path, value)]
    for key, one in value.items():
        if isinstance(one, list):
            found += [held for inner in one for held in objects(inner, f"{path}{key}[].")]
        elif key == "function":
            found += objects(one, path)
    return found


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=3)
@given(kind=st.sampled_from(list(KINDS)), key=KEYS, value=VALUES, data=st.data())
def test_a_field_that_nobody_knows_is_told_or_refused_by_its_name(name, kind, key, value, data):
    row = json.loads(json.dumps(KINDS[kind]))  # a copy
    path, into = data.draw(st.sampled_from(objects(row)))
    into[key] = value
    plain, encoded = (encode_records(records(one), MADE[name]) for one in (KINDS[kind], row))
    if encoded.refused:
        assert repr(key) in encoded.refused[0].reason or encoded.refused == plain.refused
    else:
        assert encoded.unread == {f"{path}{key}": 1}
        assert path or encoded.examples == plain.examples


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=3)
@given(
    weights=st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=4).filter(lambda held: set(held) != {0}),
    system=st.sampled_from([None, "S"]),
)
def test_answers_of_weight_0_are_read_and_all_others_learned(name, weights, system):
    turns = []
    for at, weight in enumerate(weights):
        answer = {"role": "assistant", "content": f"A{at}z"} | ({} if weight is None else {"weight": weight})
        turns += [{"role": "user", "content": f"Q{at}z"}, answer]
    row = {"messages": turns} | ({"system": system} if system else {})
    encoded = encode_records(records(row), MADE[name])
    assert not encoded.refused
    decode = MADE[name].tokenizer.decode
    learned = "".join(
        decode([token for token, trained in zip(one.tokens, one.trained, strict=True) if trained])
        for one in encoded.examples
    )
    assert [at for at in range(len(weights)) if f"A{at}z" in learned] == [
        at for at, weight in enumerate(weights) if weight != 0
    ]
    assert all(f"A{at}z" in decode(encoded.examples[-1].tokens) for at in range(len(weights)) if weights[-1] != 0)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=2)
@given(
    history=st.lists(st.sampled_from([["Qfirst", "Afirst"], ["Qnext", "Anext"]]), max_size=2),
    system=st.sampled_from([None, "Be brief."]),
    kind=st.sampled_from([("prompt", "completion"), ("instruction", "output")]),
)
def test_history_and_system_are_learned_as_the_same_conversation(name, history, system, kind):
    beside = {"history": history, "system": system, kind[0]: "Qask", kind[1]: "Asay"}
    turns = [{"role": "system", "content": system}] if system else []
    for asked, answered in [*history, ["Qask", "Asay"]]:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    one, other = (encode_records(records(row), MADE[name]) for row in (beside, {"messages": turns}))
    assert one.examples == other.examples and one.refused == other.refused == ()
    assert all(word in MADE[name].tokenizer.decode(one.examples[-1].tokens) for pair in history for word in pair)


# Arrow has one order for the fields of all rows, one type for each, and no object without any field.
def fields(**optional):
    return st.fixed_dictionaries({}, optional=optional).map(lambda held: dict(sorted(held.items())))


INSIDE = fields(c_name=st.sampled_from(["Vx", ""]), d_count=st.integers(0, 9))
ARGUMENTS = fields(
    a_text=st.sampled_from(["Vy", "null"]),
    b_some=st.lists(st.none() | st.just("Vz"), max_size=2),
    e_inside=INSIDE,
    f_all=st.lists(INSIDE, max_size=2),
)
IN_JSON = ARGUMENTS | st.just({"a_text": None}) | st.just({"e_inside": {"c_name": None}})
WHOLE = {"a_text": "V", "b_some": ["V"], "e_inside": {"c_name": "V", "d_count": 1}}
WHOLE |= {"f_all": [WHOLE["e_inside"]]}


def called(arguments, properties):
    turns = json.loads(json.dumps(CALLED))
    turns[1]["tool_calls"][0]["function"]["arguments"] = arguments
    return {"messages": turns, "tools": [clock(properties)]}


@settings(max_examples=6)
@given(
    name=st.sampled_from(list(MADE)),
    drawn=st.lists(st.tuples(ARGUMENTS, ARGUMENTS), min_size=1, max_size=2),
    written=IN_JSON,
)
def test_rows_in_parquet_have_the_tokens_of_the_same_rows_in_json(tmp_path_factory, name, drawn, written):
    folder = tmp_path_factory.mktemp("rows")
    of_objects = [called(WHOLE, WHOLE), *(called(*one) for one in drawn)]
    of_text = [called(json.dumps(written), {"a_text": "string"})] * 2
    for rows in (of_objects, of_text):
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
        of_json, of_parquet = (
            encode_records(read_records(folder / f"rows{suffix}"), MADE[name]) for suffix in (".jsonl", ".parquet")
        )
        assert of_parquet.examples == of_json.examples and of_parquet.refused == of_json.refused
        assert of_parquet.unread == of_json.unread == {}
    if name in ("Qwen2.5", "Qwen3"):
        text = MADE[name].tokenizer.decode(of_parquet.examples[0].tokens)
        assert json.dumps(written) in text  # with its nulls
