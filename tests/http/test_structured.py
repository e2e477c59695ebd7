"""Answers held to a form over HTTP: JSON schemas, regular expressions, calls of tools."""

import json
import re
import shutil

import openai
import pydantic
import pytest
from starlette.testclient import TestClient
from tiny import CHATML

import kameleon
from kameleon.errors import SettingError
from kameleon.generation.constraint import Constraint
from kameleon.http import Service, create_app
from kameleon.serving import Engine, HotAdapters, Limits

HI = [{"role": "user", "content": "Hello there"}]
SCHEMA = {
    "type": "object",
    "properties": {"size": {"enum": ["small", "large"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["size", "count"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "order", "description": "Order some", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "wait"}},
]


def chat(client, **fields):
    wish = {"model": "tiny", "messages": HI, "max_tokens": 90, "temperature": 0, **fields}
    return client.post("/v1/chat/completions", json=wish)


def content(response):
    return response.json()["choices"][0]["message"]["content"]


def test_an_answer_follows_its_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}
    for model in ("tiny", "law"):
        answer = json.loads(content(chat(client, model=model, response_format=form)))
        assert set(answer) == {"size", "count"}
        assert answer["size"] in ("small", "large")
        assert 0 <= answer["count"] <= 99


def test_an_answer_matches_its_expression(client):
    form = {"type": "regex", "regex": "[ab]{4}-[0-9]{2}"}
    assert re.fullmatch(form["regex"], content(chat(client, response_format=form)))
    wish = {"model": "tiny", "prompt": "one", "max_tokens": 20, "response_format": form}
    assert re.fullmatch(form["regex"], client.post("/v1/completions", json=wish).json()["choices"][0]["text"])


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"schema": {"type": "soup"}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}},
        {"type": "regex", "regex": "(unclosed"},
    ],
)
def test_a_form_that_cannot_be_followed_is_a_400_and_the_server_goes_on(client, form):
    assert chat(client, response_format=form).status_code == 400
    assert chat(client, max_tokens=2).status_code == 200


def test_the_openai_client_parses_an_answer_into_a_class(address):
    class Order(pydantic.BaseModel):
        size: str = pydantic.Field(pattern="^(small|large)$")
        count: int = pydantic.Field(ge=0, le=99)

    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as api:
        done = api.chat.completions.parse(model="law", messages=HI, response_format=Order, max_tokens=90, temperature=0)
    assert isinstance(done.choices[0].message.parsed, Order)


def test_under_strict_an_object_holds_what_it_names(client):
    tag = {"type": "object", "properties": {"tag": {"enum": ["a", "b"]}}, "required": ["tag"]}
    schema = {"type": "object", "properties": {"tags": {"type": "array", "items": tag, "minItems": 2, "maxItems": 2}}}
    form = {"type": "json_schema", "json_schema": {"schema": {**schema, "required": ["tags"]}, "strict": True}}
    answer = json.loads(content(chat(client, response_format=form)))
    assert list(answer) == ["tags"]
    assert [list(one) for one in answer["tags"]] == [["tag"], ["tag"]]


def test_a_form_that_spells_an_end_token_is_answered_whole(client):
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["<|im_end|>!"]}}}
    (choice,) = chat(client, response_format=form).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('"<|im_end|>!"', "stop")


def test_a_form_that_fails_within_an_answer_is_an_error_and_no_end(client, monkeypatch):
    def give_up(self, token):
        raise SettingError("regex cannot be followed: too complex")

    monkeypatch.setattr(Constraint, "take", give_up)
    form = {"type": "regex", "regex": "[ab]{9}"}
    whole = chat(client, response_format=form)
    assert (whole.status_code, whole.json()["error"]["code"]) == (400, "invalid_value")
    assert "too complex" in chat(client, response_format=form, stream=True).text
    monkeypatch.undo()
    assert chat(client, response_format=form).status_code == 200


@pytest.fixture(scope="module", params=["chat_template.jinja", "additional_chat_templates/tool_use.jinja"])
def tool_base(request, tiny_folder, tmp_path_factory):
    """The tiny base with a chat template that tells of tools as Hermes' does: its only one, or one for tools alone."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    shutil.copytree(tiny_folder, folder)
    told = (
        "{% if tools %}{% for tool in tools %}"
        "{{ tool.function.name ~ ((tool.function.parameters or {}).properties or {}) | join(',') }} "
        "{% endfor %}<tool_call>{% endif %}"
    )
    call = "{{ m['content'] or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name ~ c.function.arguments }}"
    chatml = CHATML.replace("{{ m['content'] }}", call + "{% endfor %}")
    (folder / request.param).parent.mkdir(exist_ok=True)
    (folder / request.param).write_text(told + chatml)
    return folder


@pytest.fixture
def tool_service(tool_base):
    import torch

    loaded = kameleon.load(str(tool_base), dtype=torch.float32)
    adapters = HotAdapters(loaded.base, loaded.shelf)
    engine = Engine(loaded.base, adapters, Limits(kv_cache_bytes=16 << 20, adapter_bytes=1 << 20))
    yield Service(loaded.base, engine, adapters=adapters, shelf=loaded.shelf)
    engine.close(0)


@pytest.fixture
def tool_client(tool_service):
    with TestClient(create_app(tool_service), base_url="http://127.0.0.1") as opened:
        yield opened


SHORT = [{**TOOLS[0], "function": {"name": "order", "parameters": SCHEMA}}]


def test_a_demanded_call_has_no_arguments_beyond_those_of_its_tool(tool_client):
    open_object = {"type": "object", "properties": {"size": {"enum": ["small"]}}, "required": ["size"]}
    for parameters, expected in ((None, {}), ({}, {}), (open_object, {"size": "small"})):
        tools = [{"type": "function", "function": {"name": "order", "parameters": parameters}}]
        (choice,) = chat(tool_client, tools=tools, tool_choice="required").json()["choices"]
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == expected


def test_a_demanded_call_is_a_call_that_fits_the_tool(tool_client):
    response = chat(tool_client, tools=SHORT, tool_choice="required", messages=[{"role": "user", "content": "?"}])
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "order"
    assert json.loads(call["function"]["arguments"])["size"] in ("small", "large")


@pytest.mark.parametrize("arguments", ['{"size": "small"}', '{"size": "sm', ""])
def test_calls_and_their_results_can_be_sent_back(tool_client, arguments):
    call = {"id": "call_1", "type": "function", "function": {"name": "order", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    got = chat(tool_client, messages=messages, tools=[TOOLS[1]], max_tokens=4)
    assert got.status_code == 200, got.text


def test_the_openai_client_streams_a_demanded_call(tool_service, listen):
    with openai.OpenAI(base_url=f"{listen(create_app(tool_service))}/v1", api_key="none", max_retries=0) as api:
        wish = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "tools": SHORT, "temperature": 0}
        named = {"type": "function", "function": {"name": "order"}}
        with api.chat.completions.stream(**wish, tool_choice=named, max_tokens=90) as stream:
            done = stream.get_final_completion()
    (call,) = done.choices[0].message.tool_calls
    assert call.function.name == "order"
    assert done.choices[0].finish_reason == "tool_calls"


def test_multiples_of_too_many_states_are_refused_before_they_take_all_memory(client):
    def ask(schema):
        return chat(client, response_format={"type": "json_schema", "json_schema": {"schema": schema}}, max_tokens=2)

    several = {"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}
    for schema in ({"type": "integer", "multipleOf": 99_999_999}, several):
        refused = ask(schema)
        assert refused.status_code == 400
        assert refused.json()["error"]["message"].startswith("json_schema cannot be followed: numbers")
    for multiple in (7, 0.01, 1_000_000, 86_400):
        assert ask({"type": "number", "multipleOf": multiple}).status_code == 200
    assert ask({"type": "object", "properties": {"multipleOf": {"type": "string"}}}).status_code == 200


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "json_schema", "json_schema": {"schema": True}}, "valid dictionary"),
        ({"type": "regex", "regex": "\ud800"}, "regex is not text"),
        ({"type": "regex", "regex": "(?:" * 5000 + ")" * 5000}, "regex cannot be followed"),
    ],
)
def test_a_form_that_is_none_is_told_by_its_own_name_and_in_short(client, form, told):
    wish = json.dumps({"model": "tiny", "prompt": "one", "response_format": form})
    response = client.post("/v1/completions", content=wish, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]
    assert len(response.text) < 1000
