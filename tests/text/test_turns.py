"""Where answers begin and end, also in long conversations and behind a prompt that opens a thought."""

import pytest
from data.chat_templates import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from text.conversations import chat, marked
from text.published_templates import PUBLISHED

from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text import ChatTemplate
from kameleon.text.turns import _by_prefixes, find_turns

MADE = {name: one.make() for name, one in PUBLISHED.items()}
LONG = ["SmolLM2", "Llama 3.2", "Qwen2.5", "Gemma 3", "Mistral", "plain"]  # templates that keep earlier turns


def rounds(draw):
    """A long conversation of questions, calls and their results."""
    messages = []
    for at in range(draw(st.integers(7, 9))):
        messages.append({"role": "user", "content": f"Q{at}"})
        for step in range(draw(st.integers(0, 2))):
            call = {
                "id": "abcdef123",
                "type": "function",
                "function": {"name": "f", "arguments": {"a": f"{at}.{step}"}},
            }
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": f"R{at}.{step}", "tool_call_id": "abcdef123"})
        messages.append({"role": "assistant", "content": f"A{at}"})
    return messages


@pytest.mark.parametrize("name", LONG)
@settings(max_examples=4)
@given(data=st.data())
def test_a_long_conversation_has_the_turns_that_every_prefix_gives(name, data):
    def render(messages, *, add_generation_prompt=False):
        return MADE[name]._apply(messages, tools=[], add_generation_prompt=add_generation_prompt)

    messages = rounds(data.draw)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [place for place in answers if data.draw(st.integers(0, 9)) > 1] or answers
    try:
        expected = _by_prefixes(render, messages, learned)
    except DataError as error:
        with pytest.raises(type(error)):
            find_turns(render, messages, learned)
        return
    assert find_turns(render, messages, learned) == expected


def test_the_work_for_a_long_conversation_grows_with_its_length():
    """Counted in messages that are rendered."""

    def work(turns):
        rendered = 0

        def render(messages, *, add_generation_prompt=False):
            nonlocal rendered
            rendered += len(messages)
            return MADE["SmolLM2"]._apply(messages, tools=[], add_generation_prompt=add_generation_prompt)

        messages = chat(*(f"m{i}" for i in range(turns)))
        find_turns(render, messages, list(range(1, turns, 2)))
        return rendered

    assert work(160) - work(80) == 2 * (work(80) - work(40))


def test_a_thought_that_the_prompt_opens_is_learned_and_closed():
    template = MADE["R1-Distill"]
    for answer in (
        {"content": "<think>\nHm.\n</think>\n\nHo"},
        {"content": "Hm.</think>Ho"},
        {"content": "Ho", "reasoning_content": "Hm."},
        {"content": "Ho", "thinking": "\nHm.\n"},
    ):
        encoded = template.encode_conversation([*chat("Hi"), {"role": "assistant", **answer}])
        assert marked(template, *encoded).endswith("<｜Assistant｜><think>\n⟦Hm.\n</think>\n\nHo<｜end▁of▁sentence｜>⟧")
    plain = template.encode_conversation(chat("Hi", "Ho"))
    assert marked(template, *plain).endswith("<｜Assistant｜><think>\n⟦\n</think>\n\nHo<｜end▁of▁sentence｜>⟧")


def test_a_prompt_that_opens_a_thought_can_be_generated_from():
    template = MADE["R1-Distill"]
    assert template.tokenizer.decode(template.encode_prompt(chat("Hi"))).endswith("<｜Assistant｜><think>\n")
    assert template.tokenizer.convert_ids_to_tokens(list(template.end_token_ids)) == ["<｜end▁of▁sentence｜>"]


def test_a_system_prompt_that_only_a_question_shows_stays_before_the_answer():
    system = {"role": "system", "content": "Be brief."}
    encoded = MADE["Mistral"].encode_conversation([system, *chat("Hi", "Ho")])
    prompt = MADE["Mistral"].encode_prompt([system, *chat("Hi")])
    assert encoded.tokens[: len(prompt)] == prompt
    assert "Be brief." in MADE["Mistral"].tokenizer.decode(prompt)


def test_a_thought_behind_a_prompt_that_holds_none_is_learned_as_it_is_written():
    messages = [{"role": "system", "content": "Be brief."}, *chat("Hi", "<think>Hm.</think>Ho")]
    encoded = MADE["Mistral"].encode_conversation(messages)
    assert marked(MADE["Mistral"], *encoded).endswith("⟦<think>Hm.</think>Ho</s>⟧")


def test_several_answers_that_are_written_otherwise_later_are_refused_as_one_row():
    with pytest.raises(RewrittenTurnsError):
        MADE["R1-Distill"].encode_conversation(chat("Hi", "Ho", "Ho?", "Hi!"))


def written(prompt, answer):
    """A template with this text before a generated answer, and this before one that is written."""
    return ChatTemplate(
        make_tokenizer(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '" + answer + "' if m.role == 'assistant' }}"
            "{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '" + prompt + "' }}{% endif %}"
        )
    )


@pytest.mark.parametrize(
    ("prompt", "answer", "learned"),
    [
        ("<|channel>thought\\n<channel|>", "", "Ho<|im_end|>"),
        ("<think>\\n</think>", "", "Ho<|im_end|>"),
        ("<think></think>", "</think>", "Ho<|im_end|>"),
        ("<think>\\n", "<think></think>", "</think>Ho<|im_end|>"),
        ("<think>", "</think>", "</think>Ho<|im_end|>"),
    ],
)
def test_an_answer_is_learned_behind_the_empty_thought_of_the_prompt(prompt, answer, learned):
    template = written(prompt, answer)
    for content in ("Ho", "<think>\n\n</think>\n\nHo"):
        encoded = template.encode_conversation(chat("Hi", content))
        asked = template.encode_prompt(chat("Hi"))
        assert encoded.tokens[: len(asked)] == asked
        assert marked(template, *encoded).endswith(f"⟦{learned}⟧\n")


def test_a_thought_in_the_answer_is_learned_once():
    encoded = written("<think>", "</think>").encode_conversation(chat("Hi", "<think>\nHm.\n</think>\n\nHo"))
    assert marked(written("<think>", "</think>"), *encoded).endswith("⟦Hm.\n</think>\n\nHo<|im_end|>⟧\n")


def test_a_thought_is_refused_where_the_prompt_ends_it():
    template = written("<think></think>", "")
    for answer in ({"content": "<think>Hm.</think>Ho"}, {"content": "Ho", "reasoning_content": "Hm."}):
        with pytest.raises(DataError, match="ends the thought before the answer, so the thought in message 2"):
            template.encode_conversation([*chat("Hi"), {"role": "assistant", **answer}])


def test_a_first_answer_without_a_generation_prompt_is_refused():
    source = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(RewrittenTurnsError):
        ChatTemplate(make_tokenizer(source)).encode_conversation(chat("Ho", start="assistant"))


def test_an_answer_behind_calls_whose_thought_is_left_out_later_is_learned():
    """As gpt-oss writes it: the thought of a call only before an answer is there."""
    source = (
        "{% set last = messages[-1] %}{% for m in messages %}<|im_start|>{{ m.role }}"
        "{% if m.thinking and (m is sameas last or last.role != 'assistant') %}"
        "<think>{{ m.thinking }}</think>{% endif %}"
        "{{ '<|final|>' if m.role == 'assistant' }}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    template = ChatTemplate(make_tokenizer(source))
    messages = chat("Hi", "Ho", "Ho?", "Hi!")
    messages[1]["thinking"], messages[3]["thinking"] = "Hm.", "What?"
    encoded = template.encode_conversation(messages, learned=[3])
    prompt = template.encode_prompt(messages[:3])
    assert encoded.tokens[: len(prompt)] == prompt and not any(encoded.trained[: len(prompt)])
    assert marked(template, *encoded).endswith("⟦<think>What?</think><|final|>Hi!<|im_end|>⟧")


def test_text_that_a_template_writes_behind_the_end_token_is_not_learned():
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant:"
    )
    template = ChatTemplate(make_tokenizer(source))
    encoded = template.encode_conversation(chat("Hi", "Ho"))
    assert template.end_token_ids == {template.tokenizer.eos_token_id}
    assert encoded.trained[-1] is False
