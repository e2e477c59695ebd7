"""What a template leaves out is given in another form, or refused by name; nothing vanishes."""

import pytest
from data.chat_templates import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from text.conversations import CLOCK, chat
from text.published_templates import PUBLISHED

from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text import ChatTemplate

MADE = {name: one.make() for name, one in PUBLISHED.items()}
TRAINED = [name for name in PUBLISHED if name != "Llama Guard 3"]
WORDS = st.text("abcxyz żółć", min_size=1, max_size=12).map(lambda text: f"Q{text}Z")
CALL = {"id": "call_0123456789ab", "type": "function", "function": {"name": "fnamed", "arguments": {"karg": "varg"}}}


def conversation(draw, words):
    """One with any parts that people write, and the texts that must be seen."""
    seen = [words("u")]
    messages = [{"role": "user", "content": seen[0]}]
    if draw(st.booleans()):
        seen.append(words("s"))
        messages.insert(0, {"role": "system", "content": seen[-1]})
    tools = [CLOCK] if draw(st.booleans()) else []
    if draw(st.booleans()):
        arguments = draw(st.sampled_from([{"karg": "varg"}, '{"karg": "varg"}']))
        call = {**CALL, "function": {"name": "fnamed", "arguments": arguments}}
        messages += [
            {"role": "assistant", "content": draw(st.sampled_from([None, ""])), "tool_calls": [call]},
            {"role": "tool", "content": "Rresult", "tool_call_id": CALL["id"]},
        ]
        seen += ["fnamed", "karg", "varg", "Rresult"]
    seen += ["clock", "zone"] if tools else []
    answer = {"role": "assistant", "content": words("a")}
    seen.append(answer["content"])
    if draw(st.booleans()):
        answer[draw(st.sampled_from(["reasoning_content", "thinking"]))] = "Tthought"
        seen.append("Tthought")
    return [*messages, answer], tools, seen


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=12)
@given(data=st.data())
def test_each_part_of_a_row_is_in_its_tokens_or_the_row_is_refused(name, data):
    words = [data.draw(WORDS) for _ in range(3)]
    messages, tools, seen = conversation(data.draw, lambda kind: kind + words["usa".index(kind)])
    last = len(messages) - 1
    try:
        encoded = MADE[name].encode_conversation(messages, tools, learned=[last])
    except DataError as error:
        assert "leaves out" in str(error) or "refuses these messages" in str(error)
        return
    text = MADE[name].tokenizer.decode(encoded.tokens)
    learned = MADE[name].tokenizer.decode(
        [token for token, trained in zip(encoded.tokens, encoded.trained, strict=True) if trained]
    )
    assert [one for one in seen if one not in text] == []
    assert messages[last]["content"] in learned and ("Tthought" in learned) == ("Tthought" in seen)


@pytest.mark.parametrize("name", list(PUBLISHED))
@settings(max_examples=12)
@given(data=st.data())
def test_each_part_of_a_prompt_is_in_its_tokens_or_the_prompt_is_refused(name, data):
    words = [data.draw(WORDS) for _ in range(3)]
    messages, tools, seen = conversation(data.draw, lambda kind: kind + words["usa".index(kind)])
    asked = [*messages, {"role": "user", "content": "Qagain"}]
    try:
        tokens = MADE[name].encode_prompt(asked, tools)
    except DataError as error:
        assert "leaves out" in str(error) or "refuses these messages" in str(error)
        return
    text = MADE[name].tokenizer.decode(tokens)
    assert [one for one in (*seen, "Qagain") if one not in text and one != "Tthought"] == []


@pytest.mark.parametrize("name", ["SmolLM2", "Gemma 3", "R1-Distill", "plain"])
def test_tools_that_a_template_leaves_out_are_refused_by_name(name):
    for ask in (MADE[name].encode_prompt, MADE[name].render):
        with pytest.raises(DataError, match="leaves out `tools`: take a base whose template writes that"):
            ask(chat("Hi"), [CLOCK])
    with pytest.raises(DataError, match="leaves out `tools`"):
        MADE[name].encode_conversation(chat("Hi", "Ho"), [CLOCK])


def test_a_call_that_a_template_leaves_out_is_refused_with_its_message():
    messages = [*chat("Hi"), {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}]
    with pytest.raises(DataError, match="leaves out `tool_calls` in message 2"):
        MADE["SmolLM2"].encode_conversation(messages)


@pytest.mark.parametrize("calls", [[CALL["function"]], ["fnamed()"], {"name": "fnamed"}, "fnamed()"])
def test_a_call_in_another_form_is_no_less_refused(calls):
    messages = [*chat("Hi"), {"role": "assistant", "content": "Wait.", "tool_calls": calls}, *chat("And?")]
    for name in ("SmolLM2", "Gemma 3", "plain"):
        with pytest.raises(DataError, match="leaves out `tool_calls` in message 2"):
            MADE[name].encode_prompt(messages)


def test_a_tool_in_another_form_is_written_or_refused():
    for tool in ({"name": "fnamed"}, {"type": "fnamed"}):
        assert "fnamed" in MADE["Qwen3"].render(chat("Hi"), [tool])
        with pytest.raises(DataError, match="leaves out `tools`"):
            MADE["SmolLM2"].render(chat("Hi"), [tool])


def test_a_thought_that_a_template_leaves_out_is_refused_unless_tags_are_tokens():
    messages = [*chat("Hi"), {"role": "assistant", "content": "Ho", "reasoning_content": "Hm."}]
    with pytest.raises(DataError, match="leaves out `reasoning_content` in message 2"):
        MADE["SmolLM2"].encode_conversation(messages)
    tagged = make_tokenizer(PUBLISHED["SmolLM2"].source)
    tagged.add_tokens(["<think>", "</think>"])
    encoded = ChatTemplate(tagged).encode_conversation(messages)
    assert "<think>\nHm.\n</think>\n\nHo<|im_end|>" in tagged.decode(encoded.tokens)


def test_a_thought_of_an_earlier_turn_may_be_left_out():
    earlier = [*chat("Hi"), {"role": "assistant", "content": "Ho", "reasoning_content": "Hm."}, *chat("Ho?")]
    assert "Hm." not in MADE["Qwen3"].render(earlier, add_generation_prompt=True)
    assert "Hm." not in MADE["SmolLM2"].render(earlier, add_generation_prompt=True)


def test_content_is_given_in_parts_to_a_template_that_reads_it_so():
    assert "Qhi" in MADE["Llama Guard 3"].render(chat("Qhi"), add_generation_prompt=True)
    assert "Qhi" in MADE["parts"].render(chat("Qhi"), add_generation_prompt=True)


def test_ids_of_calls_are_cut_for_a_template_that_wants_nine_letters():
    messages = [*chat("Hi"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}]
    messages[-1]["tool_call_id"] = CALL["id"]
    text = MADE["Mistral"].render(messages)
    assert text.count('id": "3456789ab"') == 2


def test_calls_and_results_without_ids_are_numbered_for_a_template_that_wants_them():
    calls = [{"type": "function", "function": CALL["function"]}] * 2
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    text = MADE["Mistral"].render([*chat("Hi"), {"role": "assistant", "tool_calls": calls}, *results])
    assert text.count('id": "000000001"') == text.count('id": "000000002"') == 2


def test_a_tool_that_says_nothing_of_itself_is_given_in_full_to_a_template_that_reads_it():
    source = "{% for t in tools %}{{ t.function.name + t.function.description + t.function.parameters | tojson }}"
    template = ChatTemplate(make_tokenizer(source + "{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"))
    tool = {"type": "function", "function": {"name": "now", "parameters": None}}
    assert template.render(chat("Hi"), [tool]) == 'now{"type": "object", "properties": {}}Hi'


def test_earlier_thoughts_are_not_in_the_prompts_of_later_answers_as_in_generation():
    tagged = make_tokenizer(PUBLISHED["SmolLM2"].source)
    tagged.add_tokens(["<think>", "</think>"])
    messages = chat("Hi", "Ho", "Ho?", "Hi!")
    messages[1]["thinking"], messages[3]["thinking"] = "Hm.", "What?"
    with pytest.raises(RewrittenTurnsError):  # each answer is learned apart
        ChatTemplate(tagged).encode_conversation(messages)
    encoded = ChatTemplate(tagged).encode_conversation(messages, learned=[3])
    prompt = ChatTemplate(tagged).encode_prompt(messages[:3])
    assert encoded.tokens[: len(prompt)] == prompt


def test_tags_of_thoughts_in_a_question_are_text_that_must_be_written():
    cutting = make_tokenizer("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}")
    with pytest.raises(DataError, match="leaves out `content` of message 1"):
        ChatTemplate(cutting).render(chat("What is </think> for?"))


def test_each_template_says_no_with_its_own_words_where_no_form_helps():
    with pytest.raises(DataError, match="roles must alternate"):
        MADE["Gemma 3"].render(chat("Hi", "Ho", start="assistant"))


def test_an_answer_of_which_only_the_end_is_left_is_refused():
    trimming = make_tokenizer(PUBLISHED["Gemma 3"].source.replace("<end_of_turn>", "<|im_end|>"))
    with pytest.raises(DataError, match="only the token that ends it"):
        ChatTemplate(trimming).encode_conversation(chat("Hi", " "))
