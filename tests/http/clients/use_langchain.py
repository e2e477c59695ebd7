"""langchain-openai."""

from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

HI = HumanMessage(HELLO)


class Answer(BaseModel):
    """The answer"""

    city: Literal["Paris", "Oslo"]
    sunny: bool


@tool
def weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city"""
    return f"sunny in {city}"


def model(tokens=FEW):
    return ChatOpenAI(
        base_url=BASE_URL, api_key="none", model=MODEL, max_tokens=tokens, max_retries=0, stream_usage=True
    )


def chat():
    assert model().invoke([HI]).content


def stream():
    chunks = list(model().stream([HI]))
    assert "".join(chunk.text for chunk in chunks)
    assert any(chunk.usage_metadata for chunk in chunks)


def tools():
    said = model(ENOUGH).bind_tools([weather], tool_choice="required").invoke([HI])
    (call,) = said.tool_calls
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage) and "sunny in" in result.content
    assert model().bind_tools([weather]).invoke([HI, said, result])


def structured_output():
    for method in ("json_schema", "function_calling"):
        assert isinstance(model(ENOUGH).with_structured_output(Answer, method=method).invoke([HI]), Answer)


def embeddings():
    vectors = OpenAIEmbeddings(base_url=BASE_URL, api_key="none", model=MODEL, check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["one", "two"])) == 2


report(
    "langchain-openai",
    chat=chat,
    stream=stream,
    tools=tools,
    structured_output=structured_output,
    embeddings=embeddings,
)
