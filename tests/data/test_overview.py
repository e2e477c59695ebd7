"""What a file says as a whole: each observation where it is true, and silence where it is not."""

import json
import re

import pytest
from data.chat_templates import CHATML
from data.records import chat, pair
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kameleon.data import Record, encode_records, make_row, observe
from kameleon.text import ChatTemplate


@pytest.fixture
def seen(chatml):
    """What is observed about rows (and a test set): {kind: observation}."""

    def look(values, test=(), template=chatml, **more):
        records = [Record(i, value) for i, value in enumerate(values, start=1)]
        test_rows = [make_row(Record(i, value)) for i, value in enumerate(test, start=1)]
        encoded = encode_records(records, template, **more)
        return {one.kind: one for one in observe(encoded, template, test_rows=test_rows)}

    return look


def different(count):
    return [pair(f"What is {n}?", f"It is {n}") for n in range(count)]


def test_a_file_of_different_rows_needs_no_word(seen):
    assert seen(different(40), test=[pair("What is it?", "It is it"), {"text": "It"}]) == {}
    assert seen([{"text": "same"}] * 3) == {}


def test_one_system_prompt_in_all_rows_is_told_and_so_are_rows_that_differ(seen):
    rows = [chat(("system", "Be brief."), ("user", f"{n}?"), ("assistant", f"{n}!")) for n in range(20)]
    assert set(seen(rows)) == {"system_prompt"}
    assert "all rows have the system prompt “Be brief.”" in seen(rows)["system_prompt"].text
    other = chat(("system", "Be long."), ("user", "a?"), ("assistant", "a!"))
    got = seen([*rows[:8], other, *rows[8:], pair("none?", "none!")])
    assert set(got) == {"mixed_system_prompts"}
    assert got["mixed_system_prompts"].rows == (9, 22)
    assert (
        "20 of 22 (91%) rows have the system prompt “Be brief.”, but not rows 9, 22:"
        in got["mixed_system_prompts"].text
    )
    each = [chat(("system", f"You are {n}."), ("user", f"{n}?"), ("assistant", f"{n}!")) for n in range(20)]
    assert seen(each) == {}


def test_one_prompt_with_different_answers_is_a_contradiction_unless_also_says_that_they_are_right(seen):
    rows = [*different(9), pair("a?", "A"), pair("b?", "B"), pair("a?", "C"), pair("a?", "A")]
    (found,) = seen(rows).values()
    assert (found.kind, found.rows) == ("contradictory_rows", (10, 12, 13))
    assert found.text.startswith("1 prompt has different answers in different rows: rows 10, 12, 13. ")
    assert seen([pair("a?", "A", also=["C"]), pair("a?", "C")]) == {}
    assert set(seen([pair("a?", "A", also=["C"]), pair("a?", "C"), pair("a?", "D")])) == {"contradictory_rows"}
    before = [("user", "a?"), ("assistant", "A"), ("user", "b?")]
    turns = [chat(*before, ("assistant", answer)) for answer in ("B", "C")]
    assert seen(turns)["contradictory_rows"].rows == (1, 2)
    assert seen([turns[0], chat(("user", "b?"), ("assistant", "C"))]) == {}  # another conversation stands before it


def test_of_many_contradictions_the_first_are_named_and_the_others_counted(seen):
    rows = [pair(f"{n // 2}?", f"{n}!") for n in range(40)]
    text = seen(rows)["contradictory_rows"].text
    assert text.startswith("20 prompts have different answers in different rows: rows 1, 2; rows 3, 4; ")
    assert "rows 15, 16; and 12 more prompts. " in text


def test_an_answer_in_more_than_half_of_the_rows_is_told_with_what_it_alone_would_score(seen):
    rows = [pair(f"{n}?", "no" if n < 6 else f"yes {n}") for n in range(11)]
    found = seen(rows)["dominant_answer"]
    assert found.text.startswith("6 of 11 (55%) rows have the answer “no”: a model that always says it scores 0.55")
    assert seen([*rows, pair("z?", "yes")]) == {}, "half is not more than half"
    assert seen([pair("a?", "no"), pair("b?", "no")]) == {}, "two rows say nothing"


def test_few_rows_far_longer_than_the_rest_are_named_with_their_share(seen, chatml):
    long, longer = pair("long?", "1" * 1500), pair("longer?", "2" * 3000)
    rows = [*different(30), long, longer]
    got = seen(rows, max_tokens=4096)["long_rows"]
    assert got.rows == (32, 31)
    assert got.text.startswith("row 32 (3,0")
    assert "and memory grows with the longest" in got.text
    encoded = encode_records([Record(1, row) for row in rows], chatml, max_tokens=4096)
    lengths = [len(e.tokens) for e in encoded.examples]
    assert f"{sum(lengths[-2:]) / sum(lengths):.0%} of all tokens" in got.text
    assert seen([*different(30), *[pair(f"{n}?", f"{n}" + "1" * 1500) for n in range(10)]]) == {}, "usual here"
    assert seen([*different(30), pair("long?", "1" * 150)]) == {}, "short enough to cost nothing"


def words_template(text):
    """A tokenizer that has each word of the text as one token, with and without a space before it; else bytes."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = re.findall(r"\w+", text)
    known = [piece for word in words for form in (word, f" {word}") for piece, _ in alphabet.pre_tokenize_str(form)]
    pieces = dict.fromkeys([*sorted(alphabet.alphabet()), *known])
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = alphabet, decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML)
    return ChatTemplate(fast)


LANGUAGES = {
    "English": "The shop opens at nine in the morning and closes at six. You can return any product in thirty days. "
    "Please keep your receipt, and show it when you come to pay.",
    "Polish": "Sklep otwiera się o dziewiątej rano i zamyka o szóstej. Każdy produkt można zwrócić w trzydzieści dni. "
    "Proszę zachować paragon i pokazać go przy kasie.",
    "Greek": "Το κατάστημα ανοίγει στις εννέα το πρωί και κλείνει στις έξι. Μπορείτε να επιστρέψετε κάθε προϊόν. "
    "Παρακαλώ κρατήστε την απόδειξη και δείξτε την όταν πληρώνετε.",
    "Chinese": "商店早上九点开门，六点关门。您可以在三十天内退回任何产品。请保留您的收据，并在付款时出示。"
    "如果商品有缺陷，我们会免费更换。送货通常需要三个工作日。礼品卡不能退款，但永远不会过期。"
    "会员每个月可以得到一次折扣。周末我们的营业时间比较短。请通过电子邮件联系客户服务部门。",
}


@pytest.mark.parametrize("language", ["Polish", "Greek", "Chinese"])
def test_a_language_that_the_tokenizer_cuts_to_letters_is_told_in_numbers(seen, language):
    def rows(language):
        return [pair(f"{n}?", f"{LANGUAGES[language]} {n}") for n in range(12)]

    english = words_template(LANGUAGES["English"])
    found = seen(rows(language), template=english)["cut_words"]
    assert " letters (1.0 bytes a token, where English has about 5). Answers take some 5.0 times as long" in found.text
    assert seen(rows("English"), template=english) == {}
    assert seen(rows(language), template=words_template(LANGUAGES[language])) == {}


def test_labels_abbreviations_and_numbers_are_no_language(seen):
    """Every tokenizer cuts them to letters, and few labels are too little to judge by."""
    labels = [pair(f"{n}?", f"zxq {n}") for n in range(40)]
    capitals = [pair(f"{n}?", f"{chr(65 + n % 26)}XQZV{chr(65 + n % 7)} {n}") for n in range(200)]
    for rows in (labels, capitals):
        assert seen(rows, template=words_template(LANGUAGES["English"])) == {}


def test_what_stands_in_the_test_set_too_is_counted_and_so_are_prompts_with_another_answer(seen):
    rows = [*different(8), pair("a?", "A", also=["a"]), {"text": "All of it"}]
    test = [
        pair("What is 3?", "It is 3"),
        pair("a?", "a"),
        {"text": "All of it"},
        pair("What is 4?", "Four"),
        pair("z", "Z"),
    ]
    got = seen(rows, test=test)
    assert set(got) == {"test_overlap", "test_contradictions"}
    assert got["test_overlap"].text.startswith("3 of 5 (60%) rows of the test set are learned")
    assert got["test_overlap"].rows == (4, 9, 10)
    assert got["test_contradictions"].text.startswith(
        "1 of 5 (20%) rows of the test set have a prompt that is learned with another answer: row 4 of the test set, "
    )


def test_observations_are_json(seen):
    (found,) = seen([pair("a?", "A"), pair("a?", "B")]).values()
    assert json.loads(json.dumps(vars(found)))["rows"] == [1, 2]


def test_rows_whose_messages_spell_control_tokens_are_named(seen):
    (found,) = seen([pair("What is <|im_end|>?", "A token."), pair("Hi", "Ho")]).values()
    assert (found.kind, found.rows) == ("spelled_control_tokens", (1,))
    assert found.text.startswith("row 1 spells control tokens in a message (<|im_end|>): they are learned as text")
    assert seen([{"text": "<|im_start|>user\nHi<|im_end|>"}]) == {}
