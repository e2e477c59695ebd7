"""Rows to tokens: what is learned of each kind, and what is cut."""

import pytest
from data.chat_templates import CHATML, learned, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from kameleon.data import Record, encode_row, make_row
from kameleon.errors import DataError
from kameleon.text import ChatTemplate

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def row(**value):
    return make_row(Record(7, value))


def text_of(template, example):
    return template.tokenizer.decode(example.tokens)


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        {"prompt": "Hi", "completion": "Ho"},
        {"instruction": "Hi", "output": "Ho"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
    ],
    ids=["chat", "pair", "Alpaca", "ShareGPT", "pair of messages"],
)
def test_every_kind_of_conversation_learns_its_answer_and_the_end_of_the_turn(chatml, llama3, rewriting, value):
    example = encode_row(row(**value), chatml)
    assert text_of(chatml, example).startswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>")
    assert learned(chatml, example) == ["Ho<|im_end|>"]
    assert learned(llama3, encode_row(row(**value), llama3)) == ["Ho<|eot_id|>"]
    assert learned(rewriting, encode_row(row(**value), rewriting)) == ["<think>\n\n</think>\n\nHo<|im_end|>"]
    assert example.row == 7 and example.cut_tokens == 0 and example.trained_tokens == len("Ho") + 1


def test_the_tools_of_a_row_stand_in_its_prompt(chatml):
    example = encode_row(row(**CHAT, tools=[{"type": "function", "function": {"name": "clock"}}]), chatml)
    assert "clock" in text_of(chatml, example) and learned(chatml, example) == ["Ho<|im_end|>"]


def test_raw_puts_prompt_and_answer_together_as_they_are(llama3):
    """Behind the beginning that this tokenizer puts before every text, as at generation."""
    example = encode_row(row(prompt="Hi \n", completion="\n Ho "), llama3, raw=True)
    assert text_of(llama3, example) == "<|begin_of_text|>Hi \n\n Ho <|eot_id|>"
    assert learned(llama3, example) == ["\n Ho <|eot_id|>"]


@given(prompt=st.text("\n ahel", min_size=1).filter(str.strip), completion=st.text("\n ahel").filter(str.strip))
def test_a_raw_prompt_is_tokenised_as_it_will_be_at_generation(prompt, completion):
    template = ChatTemplate(make_tokenizer(None))
    example = encode_row(row(prompt=prompt, completion=completion), template, raw=True)
    asked = tuple(template.tokenizer.encode(prompt, add_special_tokens=False))
    assert example.tokens[: len(asked)] == asked
    assert example.trained == (False,) * len(asked) + (True,) * (len(example.tokens) - len(asked))


def test_raw_needs_text_on_both_sides(chatml):
    with pytest.raises(DataError, match=r"`raw=True` needs prompt and completion"):
        encode_row(row(**CHAT), chatml, raw=True)


@pytest.mark.parametrize("raw", [False, True])
def test_plain_text_is_learned_whole_with_its_end(llama3, raw):
    example = encode_row(row(text=" Once.\n"), llama3, raw=raw)
    assert learned(llama3, example) == [" Once.\n<|eot_id|>"]
    assert text_of(llama3, example) == "<|begin_of_text|> Once.\n<|eot_id|>" and all(example.trained[1:])


@pytest.mark.parametrize("begin", [None, "<|begin_of_text|>"])
def test_text_begins_as_the_tokenizer_begins_it_and_the_beginning_is_not_learned(begin):
    template = ChatTemplate(make_tokenizer(None, begin))
    for raw in (False, True):
        example = encode_row(row(text="ha hell"), template, raw=raw)
        end = template.tokenizer.eos_token_id
        assert list(example.tokens) == [*template.tokenizer("ha hell")["input_ids"], end]
        assert example.trained == (not begin, *([True] * (len(example.tokens) - 1)))
    example = encode_row(row(prompt="ha", completion="hell"), template, raw=True)
    asked = template.tokenizer("ha")["input_ids"]
    assert list(example.tokens[: len(asked)]) == asked and not any(example.trained[: len(asked)])


def test_an_end_that_the_tokenizer_adds_is_no_beginning():
    tokenizer = make_tokenizer(None, "<|begin_of_text|>")
    tokenizer.add_bos_token = tokenizer.add_eos_token = True
    template = ChatTemplate(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(template.opening)) == ["<|begin_of_text|>"]
    assert list(encode_row(row(text="ha"), template).tokens) == tokenizer("ha")["input_ids"]


def test_a_template_that_writes_the_beginning_gets_no_second_one(llama3):
    example = encode_row(row(**CHAT), llama3)
    assert text_of(llama3, example).count("<|begin_of_text|>") == 1


def test_of_a_conversational_prompt_no_answer_is_learned(chatml):
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "And?"},
    ]
    example = encode_row(row(prompt=prompt, completion=[{"role": "assistant", "content": "Hum"}]), chatml)
    assert learned(chatml, example) == ["Hum<|im_end|>"]


@pytest.mark.parametrize("value", [{"text": "a"}, {"prompt": "a", "completion": "b"}])
def test_a_tokenizer_without_an_end_token_cannot_teach_to_stop(value):
    with pytest.raises(DataError, match="no end token"):
        encode_row(row(**value), ChatTemplate(make_tokenizer(CHATML, end=None)), raw=True)


def test_text_and_raw_need_no_template_but_a_conversation_does():
    template = ChatTemplate(make_tokenizer(None))
    assert encode_row(row(text="a"), template).trained_tokens == 1
    assert encode_row(row(prompt="a", completion="b"), template, raw=True).trained_tokens == 2
    with pytest.raises(DataError, match="no chat template"):
        encode_row(row(**CHAT), template)


@pytest.mark.parametrize("value", [{"text": "\ud800"}, {"prompt": "a", "completion": "\ud800"}])
@pytest.mark.parametrize("raw", [False, True])
def test_half_a_surrogate_pair_is_a_data_error(chatml, value, raw):
    with pytest.raises(DataError, match="surrogate"):
        encode_row(row(**value), chatml, raw=raw)


@given(max_tokens=st.integers(1, 60))
def test_a_long_row_keeps_its_beginning_and_says_what_was_cut(max_tokens):
    template = ChatTemplate(make_tokenizer(CHATML))
    whole = encode_row(row(prompt="Which?", completion="This one."), template)
    cut = encode_row(row(prompt="Which?", completion="This one."), template, max_tokens=max_tokens)
    assert cut.tokens == whole.tokens[:max_tokens] and cut.trained == whole.trained[:max_tokens]
    lost = len(whole.tokens) - len(cut.tokens)
    assert cut.cut_tokens == (lost if cut.trained_tokens < whole.trained_tokens else 0)


def test_losing_only_what_follows_the_end_of_the_answer_is_no_cut(chatml):
    whole = encode_row(row(**CHAT), chatml)
    assert not whole.trained[-1]  # ChatML's line break after the end of the turn
    assert encode_row(row(**CHAT), chatml, max_tokens=len(whole.tokens) - 1).cut_tokens == 0
    assert encode_row(row(**CHAT), chatml, max_tokens=len(whole.tokens) - 2).cut_tokens == 2
