"""llama-index, with llama-index-llms-openai-like and llama-index-embeddings-openai-like."""

from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

HI = [ChatMessage(role="user", content=HELLO)]


class Answer(BaseModel):
    """The answer"""

    city: Literal["Paris", "Oslo"]
    sunny: bool


def weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city"""
    return f"sunny in {city}"


def model(tokens=FEW, **fields):
    return OpenAILike(
        api_base=BASE_URL,
        api_key="none",
        model=MODEL,
        max_tokens=tokens,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        max_retries=0,
        **fields,
    )


def chat():
    assert model().chat(HI).message.content
    assert model().complete(HELLO).text


def stream():
    assert "".join(one.delta or "" for one in model().stream_chat(HI))


def tools():
    llm = model(ENOUGH)
    tool = FunctionTool.from_defaults(weather)
    answer = llm.chat_with_tools([tool], user_msg=HELLO, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather" and call.tool_kwargs["city"] in ("Paris", "Oslo")
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    assert model().chat([*HI, answer.message, result])


def structured_output():
    for as_schema in (False, True):
        llm = model(ENOUGH, should_use_structured_outputs=as_schema)
        assert isinstance(llm.structured_predict(Answer, PromptTemplate(HELLO)), Answer)


def embeddings():
    vectors = OpenAILikeEmbedding(api_base=BASE_URL, api_key="none", model_name=MODEL, max_retries=0)
    assert len(vectors.get_text_embedding_batch(["one", "two"])) == 2


report(
    "llama-index-llms-openai-like",
    chat=chat,
    stream=stream,
    tools=tools,
    structured_output=structured_output,
    embeddings=embeddings,
)
