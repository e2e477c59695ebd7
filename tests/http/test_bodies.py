"""Bodies of requests: fields that are not known, values at the edge, and what is no JSON object at all."""

import json
from dataclasses import replace

import pytest
from conftest import LIMITS
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from starlette.testclient import TestClient

from kameleon.http import create_app
from kameleon.http.bodies import ChatBody, CompletionBody, EmbeddingBody
from kameleon.http.elsewhere import KNOWN_ELSEWHERE
from kameleon.http.prompts import Prompts
from kameleon.text import ChatTemplate

HI = [{"role": "user", "content": "Hello there"}]


def ask(client, **fields):
    wish = {"model": "tiny", "messages": HI, "max_tokens": 4, "temperature": 0, **fields}
    return client.post("/v1/chat/completions", json=wish)


def error_of(response):
    return response.json()["error"]


@pytest.mark.parametrize(
    ("body", "params"),
    [
        (ChatBody, chat_create_params.CompletionCreateParamsBase),
        (CompletionBody, completion_create_params.CompletionCreateParamsBase),
        (EmbeddingBody, embedding_create_params.EmbeddingCreateParams),
        (ChatBody, response_create_params.ResponseCreateParamsBase),
    ],
)
def test_each_field_of_openais_own_client_is_served_or_called_not_supported(body, params):
    unknown = params.__annotations__.keys() - body.model_fields.keys()
    assert unknown - {"prompt"} <= KNOWN_ELSEWHERE  # that of responses is a field of completions too


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("functions", "not supported by this server; use tools"),
        ("max_output_tokens", "not supported by this server; use max_tokens"),
        ("guided_json", "not supported by this server; use response_format"),
        ("chat_template_kwargs", "not supported by this server; use reasoning_effort"),
        ("verbosity", "not supported by this server"),
        ("web_search_options", "not supported by this server"),
        ("best_of", "no field of this request; /v1/completions has it"),
        ("input", "no field of this request; /v1/embeddings has it"),
        ("temprature", "no such field; did you mean 'temperature'?"),
        ("xyzzy", "no such field"),
    ],
)
def test_a_field_that_is_not_here_is_told_in_its_own_way(client, field, told):
    response = ask(client, **{field: "x"})
    assert response.status_code == 400
    assert error_of(response)["param"] == field
    assert error_of(response)["message"] == f"{field}: {told}"
    assert ask(client, **{field: None}).status_code == 200  # null says nothing


def test_a_null_is_as_if_the_field_were_left_out_at_any_depth(client):
    message = {"role": "user", "content": "Hello there", "tool_calls": None, "provider_specific_fields": None}
    form = {"type": "json_schema", "json_schema": {"name": None, "schema": {"const": 1}, "odd": None}, "odd": None}
    assert ask(client, messages=[message], response_format=form, stream_options={"odd": None}).status_code == 200
    assert error_of(ask(client, model=None))["message"].startswith("model: this field is missing; GET /v1/models")


def test_only_a_few_of_many_unknown_fields_are_told(client):
    message = error_of(ask(client, **{f"field_{i}": 1 for i in range(5000)}))["message"]
    assert message.count("no such field") == 5


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"stop": 5}, "stop", "stop: Input should be a valid string or"),
        ({"tool_choice": 5}, "tool_choice", "tool_choice: Input should be 'none'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "messages.0.content: Input"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.image_url",
            "messages.0.content.0.image_url: not supported by this server",
        ),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "messages.0.role: this field is missing"),
    ],
)
def test_param_is_a_path_in_the_body_that_came(client, fields, param, words):
    error = error_of(ask(client, **fields))
    assert error["param"] == param
    assert error["message"].startswith(words)


def text_of(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("more", [{}, {"top_k": 5}, {"min_p": 0.1}, {"frequency_penalty": 0}])
def test_top_p_0_is_greedy(client, more):
    assert text_of(ask(client, top_p=0, temperature=2, max_tokens=12, **more)) == text_of(ask(client, max_tokens=12))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2},
        {"stop": []},
        {"logit_bias": {}},
        {"tools": [], "tool_choice": "auto"},
        {"n": 1, "seed": 0, "metadata": {}, "store": False, "user": ""},
        {"modalities": ["text"]},
        {"prompt_cache_retention": "24h"},
        {"response_format": {"type": "text"}},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_values_that_openai_takes_and_that_ask_for_nothing_more_are_taken(client, fields):
    assert ask(client, **fields).status_code == 200


BODY = json.dumps({"model": "tiny", "messages": HI, "max_tokens": 1}).encode()


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_without_a_json_content_type_is_told_which_header(client, kind):
    response = client.post("/v1/chat/completions", content=BODY, headers={"content-type": kind} if kind else {})
    assert response.status_code == 415
    assert "send JSON with the header Content-Type: application/json" in error_of(response)["message"]
    assert (kind or "without a Content-Type") in error_of(response)["message"]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n"])
def test_json_is_read_with_any_spelling_of_its_type_and_behind_a_byte_order_mark(client, kind, start):
    response = client.post("/v1/chat/completions", content=start + BODY, headers={"content-type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"", {}, 400, "the body is empty; send a JSON object"),
        (b"[]", {}, 400, "the body is a list"),
        (b"5", {}, 400, "the body is no object"),
        (b"{", {}, 400, "the body is not JSON"),
        (BODY, {"content-encoding": "gzip"}, 415, "Content-Encoding says 'gzip'; send the body as it is"),
        (b"{}", {}, 400, "model: this field is missing; GET /v1/models lists"),
    ],
)
def test_what_is_no_object_is_told_what_it_is(client, content, headers, status, words):
    headers = {"content-type": "application/json", **headers}
    response = client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status
    assert words in error_of(response)["message"]


def test_a_prompt_and_answer_beyond_the_cache_are_beyond_the_context_for_a_client(make_service):
    service = make_service(replace(LIMITS, kv_cache_bytes=64 << 10))
    room = service.room_tokens
    assert room < 256
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        error = error_of(client.post("/v1/completions", json={"model": "tiny", "prompt": [1], "max_tokens": 255}))
        assert error["code"] == "context_length_exceeded"
        assert f"maximum context length is {room} tokens" in error["message"]
        assert client.get("/v1/models").json()["data"][0]["max_model_len"] == room


def test_reasoning_effort_switches_thinking_where_the_template_can(tiny):
    source = tiny.base.tokenizer.chat_template + "{% if enable_thinking is false %}<think></think>{% endif %}"
    tiny.base.tokenizer.chat_template = source
    prompts = Prompts(replace(tiny.base, template=ChatTemplate(tiny.base.tokenizer)))
    asked = ChatBody.model_validate({"model": "tiny", "messages": HI, "reasoning_effort": "none"})

    def text(effort):
        return tiny.base.tokenizer.decode(prompts.of_messages(asked.messages, [], opening="", effort=effort))

    assert text(asked.reasoning_effort) == text("high") + "<think></think>" == text(None) + "<think></think>"
