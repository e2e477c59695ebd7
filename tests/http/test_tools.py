"""Tool calls: read out of text in each template's own style, whole and in any pieces; demanded ones are forced."""

import json
from dataclasses import replace

import pytest
from data.chat_templates import CHATML
from hypothesis import given
from hypothesis import strategies as st

from kameleon.http.bodies import ChatBody
from kameleon.http.errors import ApiError
from kameleon.http.prompts import Prompts
from kameleon.http.tools import Call, CallStyle, plan_tools, style_of
from kameleon.text import ChatTemplate

TEMPLATES = {
    CallStyle.TAGGED: "{% if tools %}{{ tools }}<tool_call>{% endif %}",
    CallStyle.LISTED: "{% if tools %}{{ tools }}[TOOL_CALLS]{% endif %}",
    CallStyle.BARE: '{% if tools %}{{ tools }}{"name": n, "parameters": p}{% endif %}',
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def body(**fields):
    tools = [
        {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}},
        {"type": "function", "function": {"name": "time"}},
    ]
    messages = [{"role": "user", "content": "?"}]
    return ChatBody.model_validate({"model": "m", "messages": messages, "tools": tools, **fields})


def read(style, pieces, **fields):
    reader = plan_tools(body(**fields), TEMPLATES[style]).reader()
    found = [one for piece in pieces for one in reader.take(piece, finished=False)]
    found += reader.take("", finished=True)
    words = "".join(one for one in found if isinstance(one, str))
    return words, [(one.name, json.loads(one.arguments)) for one in found if isinstance(one, Call)]


def written(style, *calls):
    """Calls as a model of this style writes them."""
    texts = [json.dumps({"name": name, style.arguments_key: arguments}) for name, arguments in calls]
    if style is CallStyle.TAGGED:
        return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
    return f"[{', '.join(texts)}]" if style is CallStyle.LISTED else "; ".join(texts)


def cut(data, text):
    """The text in pieces, cut anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


PARIS = ("weather", {"city": "Paris"})
CALLS = {
    CallStyle.TAGGED: (
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>{"name": "time", "arguments": {}}</tool_call>',
        "Let me see.",
    ),
    CallStyle.LISTED: ('[{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "time", "arguments": {}}]', ""),
    CallStyle.BARE: ('{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time", "parameters": {}}', ""),
}


@pytest.mark.parametrize("style", CallStyle)
@given(data=st.data())
def test_calls_are_found_however_the_text_is_cut(style, data):
    text, words = CALLS[style]
    assert read(style, cut(data, text)) == (words, [PARIS, ("time", {})])


MARKS = st.sampled_from(["</tool_call>", "<tool_call>", ";", "; {", '"}', "]", "\\", "\n", "żółć", "🦎", "\u2028"])


@pytest.mark.parametrize("style", CallStyle)
@given(data=st.data(), city=st.lists(MARKS | st.text(max_size=3), max_size=6).map("".join))
def test_arguments_may_hold_any_text(style, data, city):
    calls = [("weather", {"city": city}), ("time", {}), ("weather", {"city": [city, {city: None}]})]
    assert read(style, cut(data, written(style, *calls))) == ("", calls)


FRAGMENTS = ["<tool_call>", "</tool_call>", '{"name": "time", "arguments": {}}', '{"name": "weath', "hm", " ", "\n"]


@pytest.mark.parametrize("style", CallStyle)
@given(data=st.data(), parts=st.lists(st.sampled_from([*FRAGMENTS, *'{}[];",']), max_size=9))
def test_a_stream_has_the_calls_and_the_text_of_the_whole_answer(style, data, parts):
    text = "".join(parts)
    assert read(style, cut(data, text)) == read(style, [text])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "weather", "arguments": {"city": "a\nb"}}', {"city": "a\nb"}),
        ('{"name": "weather", "arguments": {"city": "\\ud83d!"}}', {"city": "?!"}),
        ('{"name": "weather", "arguments": {"city": "\\ud83e\\udd8e"}}', {"city": "🦎"}),
        ('{"name": "weather", "arguments": null}', {}),
        ('{"name": "time", "arguments": {"zone": "CET"}}', {}),
    ],
    ids=["line break", "half a character", "escapes", "null", "no parameters"],
)
def test_arguments_become_json_that_clients_can_read_and_send_back(text, arguments):
    ((_, got),) = read(CallStyle.TAGGED, [f"<tool_call>{text}</tool_call>"])[1]
    assert got == arguments


@pytest.mark.parametrize(
    "function",
    [
        {},
        {"parameters": None},
        {"parameters": {}},
        {"parameters": {"type": "object"}},
        {"parameters": {"type": "object", "properties": {}, "required": []}},
        {"parameters": {"title": "Wait", "properties": {}, "type": "object", "additionalProperties": False}},
    ],
    ids=str,
)
def test_a_tool_without_parameters_takes_none(function):
    tools = [{"type": "function", "function": {"name": "wait", **function}}]
    plan = plan_tools(body(tools=tools, tool_choice="required"), TEMPLATES[CallStyle.BARE])
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert json.loads(plan.constraints["json_schema"])["$defs"]["0"] == empty
    invented = '{"name": "wait", "parameters": {"seconds": 3}}'
    assert read(CallStyle.BARE, [invented], tools=tools)[1] == [("wait", {})]


def test_a_tool_that_takes_anything_may_be_given_anything():
    tools = [{"type": "function", "function": {"name": "note", "parameters": {"additionalProperties": True}}}]
    assert read(CallStyle.BARE, ['{"name": "note", "parameters": {"a": 1}}'], tools=tools)[1] == [("note", {"a": 1})]


@pytest.mark.parametrize("style", CallStyle)
def test_one_call_is_all_there_is_without_parallel_calls(style):
    assert read(style, [CALLS[style][0]], parallel_tool_calls=False)[1] == [PARIS]


@pytest.mark.parametrize("style", CallStyle)
@given(text=st.text(st.sampled_from('<tool_cal>/{}[]";:, name'), max_size=60))
def test_text_without_calls_stays_as_it_is(style, text):
    assert read(style, list(text)) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": ["weather"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "Paris"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": NaN}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": "Par</tool_call>',
        "<tool_call>weather(Paris)</tool_call> and more",
        '<tool_call>{"name": "weath',
    ],
)
def test_what_is_no_call_stays_text(text):
    assert read(CallStyle.TAGGED, [text]) == (text, [])


def test_a_call_that_only_lacks_its_end_tag_counts():
    assert read(CallStyle.TAGGED, ['<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}'])[1] == [PARIS]


def test_a_demanded_call_is_held_to_the_tools_schemas():
    plan = plan_tools(body(tool_choice="required"), TEMPLATES[CallStyle.TAGGED])
    assert plan.opening == "<tool_call>\n"
    schema = json.loads(plan.constraints["json_schema"])
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["weather", "time"]
    named = {"type": "function", "function": {"name": "weather"}}
    only = json.loads(plan_tools(body(tool_choice=named), TEMPLATES[CallStyle.BARE]).constraints["json_schema"])
    assert only["properties"] == {"name": {"const": "weather"}, "parameters": {"$ref": "#/$defs/0"}}
    assert only["$defs"]["0"] == {**WEATHER, "additionalProperties": False}


def test_references_of_schemas_stay_within_their_tool():
    def tool(name, kind):
        named = {"p": {"$ref": "#/$defs/P"}, "q": {"$ref": "#/properties/p"}, "again": {"$ref": "#"}}
        parameters = {"$id": "https://example.org", "properties": named, "$defs": {"P": {"type": kind}}}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    tools = [tool("f", "integer"), tool("g", "string")]
    plan = plan_tools(body(tools=tools, tool_choice="required"), TEMPLATES[CallStyle.TAGGED])
    told = json.loads(plan.constraints["json_schema"])["$defs"]
    assert [told[at]["$defs"]["P"]["type"] for at in "01"] == ["integer", "string"]
    for at in "01":
        references = [one["$ref"] for one in told[at]["properties"].values()]
        assert references == [f"#/$defs/{at}/$defs/P", f"#/$defs/{at}/properties/p", f"#/$defs/{at}"]
        assert "$id" not in told[at]


@pytest.mark.parametrize("name", ["files.read", "server/tool", "zażółć", 'a "b"', "x" * 128])
def test_a_tool_may_have_any_name(name):
    tools = [{"type": "function", "function": {"name": name}}]
    plan = plan_tools(body(tools=tools, tool_choice="required"), TEMPLATES[CallStyle.TAGGED])
    assert json.loads(plan.constraints["json_schema"])["properties"]["name"] == {"const": name}
    assert read(CallStyle.TAGGED, [written(CallStyle.TAGGED, (name, {}))], tools=tools)[1] == [(name, {})]


@pytest.mark.parametrize(
    ("fields", "template", "words"),
    [
        ({}, None, "knows no tools"),
        ({}, "{{ messages }}", "knows no tools"),
        ({"tool_choice": "required"}, "{{ tools }}", "only auto and none work"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "{{ tools }}<tool_call>", "no tool 'x'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "{{ tools }}<tool_call>", "same name"),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "{{ tools }}<tool_call>",
            "another form",
        ),
    ],
)
def test_what_a_template_cannot_do_is_refused(fields, template, words):
    with pytest.raises(ApiError, match=words):
        plan_tools(body(**fields), template)


def test_without_a_shown_style_calls_stay_text():
    assert style_of("{{ tools }}") is None
    reader = plan_tools(body(), "{{ tools }}").reader()
    assert reader.take("hm", finished=False) == ["hm"]


def test_tools_that_must_not_be_called_are_not_told():
    assert plan_tools(body(tool_choice="none"), None).rendered == []


def test_tools_are_told_beside_the_system_prompt_of_the_adapter(tiny):
    tiny.base.tokenizer.chat_template = CHATML
    template = ChatTemplate(tiny.base.tokenizer)
    asked = body(tools=[{"type": "function", "function": {"name": "time"}}])
    plan = plan_tools(asked, template.tools_source)
    prompts = Prompts(replace(tiny.base, template=template))
    tokens = prompts.of_messages(asked.messages, plan.rendered, opening=plan.opening, system_prompt="You are a pirate.")
    text = tiny.base.tokenizer.decode(tokens)
    assert text.startswith("<|im_start|>system\nTools: [") and '"time"' in text
    assert "<|im_start|>system\nYou are a pirate.<|im_end|>\n<|im_start|>user\n?<|im_end|>" in text
