"""Schemas as real clients write them: computed, harmless, or refused by name."""

import json
import re

import pytest

from kameleon import Sampling
from kameleon.errors import SettingError
from kameleon.generation.json_schema import closed, computable

STRING = {"type": "string", "maxLength": 3}


def answers(tiny, schema):
    """Three answers that follow the schema."""
    wishes = [Sampling(max_tokens=200, temperature=1.0, seed=seed, json_schema=json.dumps(schema)) for seed in range(3)]
    got = tiny.generate(["hello"] * 3, sampling=wishes)
    assert {one.finish for one in got} == {"stop"}
    return [json.loads(one.text) for one in got]


ANNOTATIONS = {
    "$schema": "https://json-schema.org/draft-07/schema#",
    "$id": "https://example.org/a",
    "$comment": "c",
    "title": "T",
    "description": "d",
    "default": "x",
    "examples": ["x"],
    "example": "x",
    "deprecated": True,
    "readOnly": True,
    "writeOnly": False,
    "discriminator": {"propertyName": "kind"},
    "contentEncoding": "base64",
    "contentMediaType": "text/plain",
    "format": "password",
    "nullable": False,
    "uniqueItems": False,
    "x-order": 1,
}


def test_annotations_change_nothing(tiny):
    assert all(isinstance(one, str) for one in answers(tiny, {**STRING, **ANNOTATIONS}))
    inner = {"type": "object", "properties": {"format": {**STRING, **ANNOTATIONS}}, "required": ["format"]}
    for one in answers(tiny, {**inner, "additionalProperties": False}):
        assert isinstance(one["format"], str)


@pytest.mark.parametrize("kind", ["int64", "binary", "uri-reference", "json-pointer", "ipvanyaddress", "regex"])
def test_a_format_that_is_not_known_is_an_annotation(tiny, kind):
    assert all(isinstance(one, str) for one in answers(tiny, {**STRING, "format": kind}))


def test_a_format_that_is_known_holds(tiny):
    for one in answers(tiny, {"type": "string", "format": "date"}):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", one)


NAMES = {
    "any text": ({"type": "string"}, r".*"),
    "anything": (True, r".*"),
    "an enum": ({"enum": ["ab", "cd"]}, r"ab|cd"),
    "a constant": ({"const": "ab", "type": "string", "title": "Name"}, r"ab"),
    "a pattern": ({"type": "string", "pattern": "^a{1,3}$"}, r"a{1,3}"),
    "a reference": ({"$ref": "#/$defs/Name"}, r"ab|cd"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_properties_follow_their_schema(tiny, kind):
    names, expression = NAMES[kind]
    bounded = {"type": "object", "propertyNames": names, "additionalProperties": {"type": "boolean"}}
    schema = {**bounded, "$defs": {"Name": {"enum": ["ab", "cd"], "description": "d"}}}
    for seed in range(3):
        wish = Sampling(max_tokens=60, temperature=1.0, seed=seed, json_schema=json.dumps(schema))
        text = tiny.generate(["hello"], sampling=wish)[0].text
        keys = re.findall(r'"([^"]*)":', text)
        assert kind.startswith("any") or all(re.fullmatch(expression, key) for key in keys), text


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"type": "object", "propertyNames": {"minLength": 3}}, "propertyNames"),
        ({"type": "object", "properties": {"a": {}}, "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": STRING}, "not"),
        ({"if": STRING, "then": {}}, "if"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"type": "string", "pattern": "^(?=a)"}, "look-around"),
    ],
    ids=str,
)
def test_what_no_grammar_can_hold_is_refused_by_name(tiny, schema, name):
    with pytest.raises(SettingError, match=f"json_schema cannot be followed: (.|\n)*{name}"):
        answers(tiny, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "nullable": True, "const": None},
        {"allOf": [{"const": 5}], "nullable": True},
        {"$ref": "#/$defs/Five", "nullable": True, "$defs": {"Five": {"const": 5}}},
    ],
    ids=["type", "allOf", "reference"],
)
def test_a_nullable_value_may_be_null(tiny, schema):
    assert {"type": "null"} in computable(schema).get("anyOf", []) or "null" in computable(schema)["type"]
    assert set(answers(tiny, schema)) <= {5, None}


PYDANTIC_DECIMAL = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}
ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
SAMPLES = ["a@b.cd", "a.b@c.de", ".a@b.cd", "a..b@c.de", "a.@b.cd", "a'@b.cd", "'a@b.cd", "@b.cd", "a@b..cd", "a@b.c"]
ZOD_DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
TIMES = [
    "P",
    "P1W",
    "P1Y2M3D",
    "P2M",
    "P3D",
    "P1YT1H",
    "PT",
    "PT1H2M3.5S",
    "PT2M",
    "PT3,5S",
    "P1D1W",
    "P1YT",
    "PT1",
    "P1M1Y",
]
NUMBERS = ["1", "-1.5", "+.5", "5.", ".", "-", "", "+.", "0012.30", "1.2.3", "1e5"]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [(ZOD_EMAIL, SAMPLES), (ZOD_DURATION, TIMES), (PYDANTIC_DECIMAL["anyOf"][1]["pattern"], NUMBERS)],
    ids=["e-mail", "duration", "decimal"],
)
def test_known_patterns_with_look_ahead_have_the_same_meaning_without_it(pattern, texts):
    same = computable({"pattern": pattern})["pattern"]
    assert "(?" not in same
    assert [bool(re.search(same, text)) for text in texts] == [bool(re.search(pattern, text)) for text in texts]


A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}
SHUT = {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, {**A, **SHUT}),
        ({"properties": {}}, {"properties": {}, **SHUT}),
        ({"type": "object"}, {"type": "object"}),
        ({**A, "additionalProperties": True}, {**A, "additionalProperties": True}),
        ({**A, "patternProperties": {"^x": {}}}, {**A, "patternProperties": {"^x": {}}}),
        ({"properties": {"a": A}}, {"properties": {"a": {**A, **SHUT}}, **SHUT}),
        ({"items": A}, {"items": {**A, **SHUT}}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [{**A, **SHUT}, {"type": "null"}]}),
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, {"$ref": "#/$defs/A", "$defs": {"A": {**A, **SHUT}}}),
        (
            {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}},
            {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {**A, **SHUT}}},
        ),
        ({"allOf": [A, B]}, {"allOf": [A, B]}),
        (
            {"$defs": {"A": A}, "allOf": [{"$ref": "#/$defs/A"}, B]},
            {"$defs": {"A": A}, "allOf": [{"$ref": "#/$defs/A"}, B]},
        ),
        ({**A, "$ref": "#/$defs/B", "$defs": {"B": B}}, {**A, "$ref": "#/$defs/B", "$defs": {"B": B}}),
        ({**A, "anyOf": [B, {}]}, {**A, "anyOf": [B, {}]}),
        ({**A, "anyOf": [{"required": ["a"]}]}, {**A, "anyOf": [{"required": ["a"]}], **SHUT}),
        ({"default": A, "const": A}, {"default": A, "const": A}),
    ],
    ids=str,
)
def test_closed_objects_hold_what_they_name(schema, expected):
    assert closed(schema) == expected


def test_a_schema_that_refers_to_itself_is_closed_too():
    node = {"properties": {"next": {"$ref": "#"}}}
    assert closed(node) == {**node, **SHUT}
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}, A]}}}
    assert closed(loop)["$ref"] == "#/$defs/A"


@pytest.mark.parametrize("change", [closed, computable])
def test_a_schema_that_is_nested_too_deep_is_refused(change):
    schema = {}
    for _ in range(5_000):
        schema = {"items": schema}
    with pytest.raises(SettingError, match="nested too deep"):
        change(schema)
