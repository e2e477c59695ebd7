"""OpenAI's own Python package against a real server on a port of this machine."""

import openai
import pytest

HI = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def api(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_models_are_listed(api):
    assert [model.id for model in api.models.list()] == ["tiny", "law", "medicine"]
    assert api.models.retrieve("law").id == "law"


def test_chat_whole_and_streamed_says_the_same(api):
    wish = {"model": "law", "messages": HI, "max_tokens": 10, "temperature": 0}
    whole = api.chat.completions.create(**wish, logprobs=True, top_logprobs=2)
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    chunks = list(api.chat.completions.create(**wish, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_whole_and_streamed_say_the_same(api):
    wish = {"model": "tiny:medicine", "prompt": "one", "max_tokens": 10, "temperature": 0}
    whole = api.completions.create(**wish, logprobs=1)
    assert whole.model == "medicine"
    assert "".join(c.choices[0].text for c in api.completions.create(**wish, stream=True)) == whole.choices[0].text


def test_embeddings_come_in_the_clients_own_encoding(api, tiny):
    vectors = api.embeddings.create(model="tiny", input=["one", "two"]).data
    assert [len(one.embedding) for one in vectors] == [tiny.base.config.hidden_size] * 2
    plain = api.embeddings.create(model="tiny", input="one", encoding_format="float").data[0].embedding
    assert vectors[0].embedding == pytest.approx(plain, abs=1e-5)


def test_errors_are_the_clients_own_kinds(api):
    with pytest.raises(openai.NotFoundError, match="did you mean 'law'"):
        api.chat.completions.create(model="lwa", messages=HI)
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="law", messages=HI, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="knows no tools"):
        api.chat.completions.create(model="law", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}])
