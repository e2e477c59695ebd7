"""The chat template: what is rendered, and which tokens are learned."""

import datetime
import hashlib

import pytest
from data.chat_templates import CHATML, LLAMA3, REWRITING, learned, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from text.published_templates import PUBLISHED
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text import ChatTemplate, with_system

MADE = {
    "chatml": ChatTemplate(make_tokenizer(CHATML)),
    "llama3": ChatTemplate(make_tokenizer(LLAMA3, "<|begin_of_text|>", "<|eot_id|>")),
    "rewriting": ChatTemplate(make_tokenizer(REWRITING)),
}
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "rewriting": "<|im_end|>"}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def chat(*contents, start="user"):
    """User and assistant by turns."""
    roles = ["user", "assistant"] if start == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def test_of_the_answers_only_those_that_are_named_are_learned():
    template, messages = MADE["chatml"], chat("Hi", "Ho", "And?", "Hum", "Bye", "Bah")
    whole = template.encode_conversation(messages)
    for places, wanted in (((1, 5), ["Ho<|im_end|>", "Bah<|im_end|>"]), ((), []), (None, None)):
        encoded = template.encode_conversation(messages, learned=places)
        assert encoded.tokens == whole.tokens
        assert learned(template, encoded) == (learned(template, whole) if wanted is None else wanted)


def test_content_is_rendered_as_the_template_says_and_not_stripped():
    assert MADE["chatml"].render(chat("  Hi\n", " Ho ")) == (
        "<|im_start|>user\n  Hi\n<|im_end|>\n<|im_start|>assistant\n Ho <|im_end|>\n"
    )


def test_the_generation_prompt_is_only_there_when_asked_for():
    plain = MADE["chatml"].render(chat("Hi"))
    assert MADE["chatml"].render(chat("Hi"), add_generation_prompt=True) == plain + "<|im_start|>assistant\n"


def test_the_hash_is_of_the_templates_text():
    assert MADE["chatml"].hash == f"sha256:{hashlib.sha256(CHATML.encode()).hexdigest()}" != MADE["llama3"].hash


def test_of_several_templates_the_default_is_taken():
    tokenizer = make_tokenizer({"default": CHATML, "tool_use": LLAMA3})
    assert ChatTemplate(tokenizer).hash == MADE["chatml"].hash


def test_tools_are_told_with_the_template_that_a_base_has_for_them():
    template = ChatTemplate(make_tokenizer({"default": LLAMA3, "tool_use": CHATML}))
    assert (template.source, template.tools_source) == (LLAMA3, CHATML)
    assert template.render(chat("Hi"), [CLOCK]) == MADE["chatml"].render(chat("Hi"), [CLOCK])
    assert MADE["chatml"].tools_source == CHATML


def test_a_base_without_a_template_has_no_hash_and_refuses_messages():
    bare = ChatTemplate(make_tokenizer(None))
    assert bare.hash is None
    with pytest.raises(DataError, match="no chat template"):
        bare.render(chat("Hi"))


@pytest.mark.parametrize("name", ["llama3", "chatml"])
def test_no_token_is_added_to_what_the_template_renders(name):
    """Llama 3's tokenizer would put a second beginning before the template's own."""
    template = MADE[name]
    for tokens in (template.encode_prompt(chat("Hi")), template.encode_conversation(chat("Hi", "Ho")).tokens):
        begin = template.tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
        assert tokens.count(begin) == (1 if name == "llama3" else 0)
    assert template.tokenizer.decode(template.encode_prompt(chat("Hi"))) == template.render(
        chat("Hi"), add_generation_prompt=True
    )


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_only_answers_and_the_token_that_ends_each_are_learned(name):
    messages = [{"role": "system", "content": "Be brief."}, *chat("Hi", "Ho", "Ho?", "Hi!")]
    encoded = MADE[name].encode_conversation(messages)
    assert learned(MADE[name], encoded) == ["Ho" + END[name], "Hi!" + END[name]]
    assert MADE[name].tokenizer.decode(encoded.tokens) == MADE[name].render(messages)


def test_a_thinking_block_that_the_template_adds_is_learned_with_the_answer():
    encoded = MADE["rewriting"].encode_conversation(chat("Hi", "Ho"))
    assert learned(MADE["rewriting"], encoded) == ["<think>\n\n</think>\n\nHo<|im_end|>"]


def test_what_follows_the_last_answer_is_kept_but_not_learned():
    encoded = MADE["chatml"].encode_conversation(chat("Hi", "Ho", "Bye"))
    assert learned(MADE["chatml"], encoded) == ["Ho<|im_end|>"]
    assert MADE["chatml"].tokenizer.decode(encoded.tokens).endswith("Bye<|im_end|>\n")


def test_tool_calls_are_learned_and_tools_and_results_are_not():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "clock"}}]}
    messages = [*chat("Time?"), call, {"role": "tool", "content": "12:00"}, *chat("Noon.", start="assistant")]
    encoded = MADE["chatml"].encode_conversation(messages, [CLOCK])
    assert learned(MADE["chatml"], encoded) == ['<tool_call>{"name": "clock"}</tool_call><|im_end|>', "Noon.<|im_end|>"]
    assert "Tools: [" in MADE["chatml"].tokenizer.decode(encoded.tokens)


def test_an_answer_that_spells_the_end_token_is_learned_to_its_real_end():
    encoded = MADE["chatml"].encode_conversation(chat("Hi", "a<|im_end|>b"))
    assert learned(MADE["chatml"], encoded) == ["a<|im_end|>b<|im_end|>"]


def test_a_template_that_ends_answers_with_no_special_token_is_refused():
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    template = ChatTemplate(make_tokenizer(plain + "{% if add_generation_prompt %}assistant: {% endif %}"))
    for ask in (lambda: template.encode_conversation(chat("Hi", "Ho<|im_end|>?")), lambda: template.end_token_ids):
        with pytest.raises(DataError, match="could not learn to stop"):
            ask()


def test_an_answer_ends_at_a_special_token_that_is_no_end_of_text():
    """A base model's tokenizer often ends text with one token and a turn with another."""
    template = ChatTemplate(make_tokenizer(CHATML, end="<|eot_id|>"))
    assert learned(template, template.encode_conversation(chat("Hi", "Ho"))) == ["Ho<|im_end|>"]
    assert template.tokenizer.convert_ids_to_tokens(sorted(template.end_token_ids)) == ["<|im_end|>", "<|eot_id|>"]


def test_without_a_template_only_the_tokenizers_own_end_token_ends():
    template = ChatTemplate(make_tokenizer(None))
    assert template.end_token_ids == {template.tokenizer.eos_token_id}


def test_arguments_written_as_json_text_are_rendered_as_an_object():
    def call(arguments):
        return {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": arguments}}]}

    written = MADE["chatml"].render([*chat("Time?"), call('{"zone": "CET"}')])
    assert written == MADE["chatml"].render([*chat("Time?"), call({"zone": "CET"})])
    assert MADE["chatml"].render([call("")]) == MADE["chatml"].render([call(" ")]) == MADE["chatml"].render([call({})])


@pytest.mark.parametrize("broken", ["{zone", '{"zone": "CE', "[" * 100_000], ids=["word", "cut", "deep"])
def test_arguments_that_are_not_json_are_rendered_as_text(broken):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": broken}}]}
    source = "{% for m in messages %}{% set f = m.tool_calls[0].function %}{{ f.name ~ f.arguments }}{% endfor %}"
    assert ChatTemplate(make_tokenizer(source)).render([call]) == "clock" + broken


def test_a_tokenizer_that_puts_a_space_before_every_text_puts_none_before_an_answer():
    """As SentencePiece does: the answer's tokens are those it has after its prompt, not those it has alone."""
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate("▁HioI[]/NST")}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    source = "{% for m in messages %}{{ '[I]' ~ m.content ~ '[/I]' if m.role == 'user' else ' ' ~ m.content ~ '</s>' }}"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=source + "{% endfor %}"
    )
    encoded = ChatTemplate(fast).encode_conversation(chat("Hi", "Ho"))
    assert "".join(fast.convert_ids_to_tokens(list(encoded.tokens))) == "▁[I]Hi[/I]▁Ho</s>"


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.text("\n a", min_size=1, max_size=5)
ANSWER = TEXT.filter(str.strip)


@given(name=st.sampled_from(list(MADE)), system=st.none() | TEXT, question=TEXT, answer=ANSWER)
def test_the_prompt_of_generation_is_what_training_puts_before_the_answer(name, system, question, answer):
    """Also where the tokenizer would merge the prompt's last character with the answer's first."""
    before = [] if system is None else [{"role": "system", "content": system}]
    messages = [*before, *chat(question, answer)]
    prompt = MADE[name].encode_prompt(messages[:-1])
    encoded = MADE[name].encode_conversation(messages)
    assert encoded.tokens[: len(prompt)] == prompt
    assert not any(encoded.trained[: len(prompt)]) and encoded.trained[len(prompt)]


WORDS = st.text("ahel o.", min_size=1, max_size=6).map(lambda s: f"x{s}x")


@given(name=st.sampled_from(["chatml", "llama3"]), words=st.lists(WORDS, min_size=2, max_size=7))
def test_every_turns_prompt_is_a_prefix_of_the_conversation_and_its_answer_is_learned(name, words):
    template, messages = MADE[name], chat(*words)
    encoded = template.encode_conversation(messages)
    for i in range(1, len(messages), 2):
        prompt = template.encode_prompt(messages[:i])
        assert encoded.tokens[: len(prompt)] == prompt
    assert learned(template, encoded) == [answer + END[name] for answer in words[1::2]]


@pytest.mark.parametrize("contents", [("Hi", "Ho", "Ho?", "Hi!"), ("Hi", "Ho", "Bye")], ids=["answered", "open"])
def test_a_template_that_rewrites_earlier_turns_is_refused_when_there_are_any(contents):
    with pytest.raises(RewrittenTurnsError, match="rewrites earlier turns"):
        MADE["rewriting"].encode_conversation(chat(*contents))


def test_what_the_template_refuses_is_a_data_error():
    template = ChatTemplate(make_tokenizer("{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(DataError, match="roles must alternate"):
        template.render(chat("Hi"))


@pytest.mark.parametrize("source", ["{{ messages[0].content | dictsort }}", "{{ range(10 ** 9) }}", "{{ 1 % 0 }}"])
def test_each_failure_of_a_template_is_a_data_error(source):
    with pytest.raises(DataError, match="refuses these messages"):
        ChatTemplate(make_tokenizer(source)).render(chat("Hi"))


@pytest.mark.parametrize("name", list(MADE))
def test_a_conversation_that_opens_with_the_assistant_is_learned_or_refused(name):
    try:
        encoded = MADE[name].encode_conversation(chat("Hi", "Ho", "Bye", start="assistant"))
    except DataError:
        return
    assert learned(MADE[name], encoded) == ["Hi" + END[name], "Bye" + END[name]]


def test_an_empty_conversation_is_a_data_error():
    with pytest.raises(DataError, match="refuses"):
        MADE["chatml"].encode_prompt([])


@pytest.mark.parametrize("tools", [["clock"], [3]])
def test_tools_that_are_not_descriptions_are_a_data_error(tools):
    with pytest.raises(DataError, match="refuses"):
        MADE["chatml"].render(chat("Hi"), tools)


def test_text_that_cannot_be_encoded_is_a_data_error():
    """JSON can spell half of a surrogate pair."""
    with pytest.raises(DataError, match="surrogate"):
        MADE["chatml"].encode_prompt(chat("\ud800"))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_goes_before_a_conversation_that_has_none_of_its_own(role):
    asked = chat("Hi", "Ho", "Hi")
    assert with_system(asked, "Be brief.") == [{"role": "system", "content": "Be brief."}, *asked]
    assert with_system(asked, "") == [{"role": "system", "content": ""}, *asked]
    assert with_system(asked, None) == asked
    for own in ("Be long.", ""):
        begun = [{"role": role, "content": own}, *asked]
        assert with_system(begun, "Be brief.") == begun


DATED = "{{ strftime_now('%d %b %Y') }} {{ strftime_now(\"%Y\") }}\n{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_date_can_be_fixed():
    template = ChatTemplate(make_tokenizer(DATED))
    day = datetime.date(2024, 2, 29)
    assert template.is_dated and not MADE["chatml"].is_dated
    assert template.on(day).render(chat("Hi")) == "29 Feb 2024 2024\nHi"
    assert str(datetime.datetime.now().astimezone().year) in template.render(chat("Hi"))
    assert template.on(day).on(None).date is None
    assert template.on(day).hash == template.hash


def test_a_date_whose_form_is_computed_can_be_fixed_too():
    template = ChatTemplate(make_tokenizer(DATED.replace("'%d %b %Y'", "'%' ~ 'd'")))
    assert template.on(datetime.date(2024, 2, 29)).render(chat("Hi")) == "29 2024\nHi"


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_text_that_is_begun_or_ended_already_gets_no_second_beginning_or_end(name):
    published, template = PUBLISHED[name], PUBLISHED[name].make()
    begin = published.begin or ""
    template.opening = tuple(template.tokenizer.encode(begin, add_special_tokens=False))
    plain = template.ended(template.encode_whole("Hi"))
    assert template.tokenizer.decode(plain).endswith(published.end)
    for text in (f"Hi{published.end}", f"{begin}Hi", f"{begin}Hi{published.end}"):
        assert template.ended(template.encode_whole(text)) == plain
    spaced = template.ended(template.encode_whole(f"Hi{published.end}\n"))
    assert spaced.count(plain[-1]) == plain.count(plain[-1])
    assert template.ended(template.encode_whole("Hi\n"))[-1] == plain[-1]


def test_a_text_that_ends_as_the_template_ends_an_answer_gets_no_other_end():
    template = ChatTemplate(make_tokenizer(CHATML, end="<|eot_id|>"))
    text = MADE["chatml"].render(chat("Hi", "Ho"))
    assert template.tokenizer.decode(template.ended(template.encode_whole(text))) == text
