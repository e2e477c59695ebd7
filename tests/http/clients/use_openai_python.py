"""OpenAI's package for Python."""

import json
from typing import Literal

import openai
from pydantic import BaseModel
from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

api = openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
HI = [{"role": "user", "content": HELLO}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": CITY}}


class Answer(BaseModel):
    city: Literal["Paris", "Oslo"]
    sunny: bool


def chat():
    answer = api.chat.completions.create(model=MODEL, messages=HI, max_tokens=FEW)
    assert answer.choices[0].message.content and answer.usage.completion_tokens


def stream():
    with api.chat.completions.stream(
        model=MODEL, messages=HI, max_tokens=FEW, stream_options={"include_usage": True}
    ) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert text and text == final.choices[0].message.content and final.usage.total_tokens


def tools():
    wish = {"model": MODEL, "tools": [TOOL], "max_tokens": ENOUGH}
    message = api.chat.completions.create(**wish, messages=HI, tool_choice="required").choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert api.chat.completions.create(**wish, messages=[*HI, message, result], tool_choice="none").choices[0].message
    streamed = api.chat.completions.create(**wish, messages=HI, tool_choice="required", stream=True)
    deltas = [one for chunk in streamed for one in chunk.choices[0].delta.tool_calls or []]
    assert json.loads("".join(one.function.arguments for one in deltas))["city"] in ("Paris", "Oslo")


def structured_output():
    answer = api.chat.completions.parse(model=MODEL, messages=HI, max_tokens=ENOUGH, response_format=Answer)
    assert isinstance(answer.choices[0].message.parsed, Answer)


def embeddings():
    vectors = api.embeddings.create(model=MODEL, input=["one", "two"]).data
    assert len(vectors) == 2 and len(vectors[0].embedding) > 1


report("openai", chat=chat, stream=stream, tools=tools, structured_output=structured_output, embeddings=embeddings)
