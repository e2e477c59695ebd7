"""pydantic-ai, with its model for OpenAI's chat interface."""

import asyncio
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, NativeOutput, ToolOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

PROVIDER = OpenAIProvider(base_url=BASE_URL, api_key="none")


class Answer(BaseModel):
    """The answer"""

    city: Literal["Paris", "Oslo"]
    sunny: bool


def agent(tokens=FEW, **fields):
    return Agent(OpenAIChatModel(MODEL, provider=PROVIDER), model_settings={"max_tokens": tokens}, **fields)


def chat():
    assert agent(instructions="Be brief.").run_sync(HELLO).output


def stream():
    async def read():
        async with agent().run_stream(HELLO) as result:
            return [piece async for piece in result.stream_text(delta=True)]

    assert "".join(asyncio.run(read()))


def tools():
    assert isinstance(agent(ENOUGH, output_type=ToolOutput(Answer)).run_sync(HELLO).output, Answer)
    asker = agent(ENOUGH)
    called = []

    @asker.tool_plain
    def weather(city: Literal["Paris", "Oslo"]) -> str:
        """The weather of a city"""
        called.append(city)
        return f"sunny in {city}"

    assert "sunny" in asker.run_sync(HELLO).output and called


def structured_output():
    assert isinstance(agent(ENOUGH, output_type=NativeOutput(Answer)).run_sync(HELLO).output, Answer)


def embeddings():
    found = Embedder(OpenAIEmbeddingModel(MODEL, provider=PROVIDER)).embed_documents_sync(["one", "two"])
    assert len(found.embeddings) == 2


report(
    "pydantic-ai-slim",
    chat=chat,
    stream=stream,
    tools=tools,
    structured_output=structured_output,
    embeddings=embeddings,
)
