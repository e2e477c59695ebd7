"""instructor, in its modes of tools and of JSON schemas."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel
from report import BASE_URL, ENOUGH, HELLO, MODEL, report

WISH = {"model": MODEL, "messages": [{"role": "user", "content": HELLO}], "max_tokens": ENOUGH, "max_retries": 0}


class Answer(BaseModel):
    """The answer"""

    city: Literal["Paris", "Oslo"]
    sunny: bool


def api(mode):
    return instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0), mode=mode)


def chat():
    assert api(instructor.Mode.TOOLS).chat.completions.create(**WISH, response_model=None).choices[0].message.content


def stream():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        *_, last = api(mode).chat.completions.create_partial(**WISH, response_model=Answer)
        assert last.city in ("Paris", "Oslo")


def tools():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        assert isinstance(api(mode).chat.completions.create(**WISH, response_model=Answer), Answer)


def structured_output():
    assert isinstance(api(instructor.Mode.JSON_SCHEMA).chat.completions.create(**WISH, response_model=Answer), Answer)


report("instructor", chat=chat, stream=stream, tools=tools, structured_output=structured_output)
