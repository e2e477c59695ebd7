"""Which argument of a template switches thinking."""

import pytest
from data.chat_templates import CHATML, make_tokenizer

from kameleon.errors import DataError
from kameleon.text import ChatTemplate, thinking_arguments

PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n"
QWEN3 = CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
SMOLLM3 = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set mode = '/think' if enable_thinking else '/no_think' %}<|im_start|>system\n{{ mode }}<|im_end|>\n" + CHATML
)
GRANITE = CHATML + "{% if thinking %}Think first.{% endif %}"
GPT_OSS = "<|im_start|>system\nReasoning: {{ reasoning_effort or 'medium' }}<|im_end|>\n" + CHATML


def arguments(source, effort):
    return thinking_arguments(ChatTemplate(make_tokenizer(source)), effort)


@pytest.mark.parametrize(
    ("source", "name"), [(QWEN3, "enable_thinking"), (SMOLLM3, "enable_thinking"), (GRANITE, "thinking")]
)
@pytest.mark.parametrize(("effort", "on"), [("none", False), ("minimal", False), ("low", True), ("high", True)])
def test_a_switch_is_off_for_the_two_least_efforts(source, name, effort, on):
    assert arguments(source, effort) == {name: on}


def test_a_template_that_knows_efforts_gets_the_word():
    assert arguments(GPT_OSS, "high") == {"reasoning_effort": "high"}


@pytest.mark.parametrize("source", [CHATML, CHATML + "{# enable_thinking #}", CHATML + "{{ messages[0].thinking }}"])
def test_a_template_that_only_names_it_cannot_switch(source):
    assert arguments(source, "low") is None


def test_a_base_without_a_template_is_told_so():
    with pytest.raises(DataError, match="no chat template"):
        arguments(None, "low")


def test_a_template_with_arguments_is_another_and_leaves_the_first_as_it_is():
    template, asked = ChatTemplate(make_tokenizer(QWEN3)), [{"role": "user", "content": "?"}]
    off = template.given({"enable_thinking": False})
    assert off.render(asked, add_generation_prompt=True).endswith("<think>\n\n</think>\n\n")
    assert not template.render(asked, add_generation_prompt=True).endswith("</think>\n\n")
    assert len(off.encode_prompt(asked)) > len(template.encode_prompt(asked))
