"""litellm. It also tries another model where a prompt is too long for the first."""

import json

import litellm
from pydantic import BaseModel
from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

HI = [{"role": "user", "content": HELLO}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": CITY}}
WISH = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": "none", "num_retries": 0}


class Answer(BaseModel):
    sunny: bool


def chat():
    assert litellm.completion(**WISH, messages=HI, max_tokens=FEW).choices[0].message.content
    try:
        litellm.completion(**WISH, messages=[{"role": "user", "content": "x" * 60_000}], max_tokens=FEW)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("a prompt that is too long is no ContextWindowExceededError")


def stream():
    chunks = litellm.completion(**WISH, messages=HI, max_tokens=FEW, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools():
    message = litellm.completion(**WISH, messages=HI, tools=[TOOL], tool_choice="required", max_tokens=ENOUGH)
    message = message.choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Paris", "Oslo")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    assert litellm.completion(**WISH, messages=[*HI, message.model_dump(), result], tools=[TOOL], max_tokens=FEW)


def structured_output():
    answer = litellm.completion(**WISH, messages=HI, max_tokens=ENOUGH, response_format=Answer)
    assert isinstance(Answer.model_validate_json(answer.choices[0].message.content), Answer)


def embeddings():
    assert len(litellm.embedding(**WISH, input=["one", "two"]).data) == 2


report("litellm", chat=chat, stream=stream, tools=tools, structured_output=structured_output, embeddings=embeddings)
