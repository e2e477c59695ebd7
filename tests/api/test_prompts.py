"""What `generate` takes: one prompt or many, each a string or a conversation, with one adapter or one for each."""

import re

import pytest
from fakes import random_adapter

from kameleon import Sampling
from kameleon.errors import KameleonError, SettingError, WrongTypeError

HI = [{"role": "user", "content": "Hi"}]
SHORT = Sampling(max_tokens=3)


@pytest.fixture
def law(tiny):
    tiny.load_adapter(random_adapter(tiny.base, "law"))
    return tiny


def test_a_string_and_a_conversation_are_one_prompt_and_get_one_answer(tiny):
    [answer] = tiny.generate(["Hi"], sampling=SHORT)
    assert tiny.generate("Hi", sampling=SHORT) == answer
    assert tiny.generate(HI, sampling=SHORT) == answer
    assert tiny.generate(tuple(HI), sampling=SHORT) == answer
    assert tiny.generate([HI, "Hi"], sampling=SHORT) == [answer, answer]
    assert tiny.generate([], sampling=SHORT) == []


def test_an_adapter_that_is_not_in_a_list_answers_all_prompts(law):
    own = law.generate(["Hi", "Ho"], ["law", "law"], sampling=SHORT)
    assert law.generate(["Hi", "Ho"], "law", sampling=SHORT) == own
    assert law.generate("Hi", "law", sampling=SHORT) == own[0]
    assert law.generate(["Hi", "Ho"], ["law", None], sampling=SHORT)[1] == law.generate("Ho", sampling=SHORT)
    assert "".join(piece.text for piece in law.stream(HI, "law", sampling=SHORT)) == own[0].text


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"adapters": ["law"]}, "adapters has 1 for 2 prompts"),
        ({"sampling": [SHORT] * 3}, "sampling has 3 for 2 prompts"),
        ({"adapters": []}, "adapters has 0 for 2 prompts"),
    ],
)
def test_a_list_of_another_length_than_the_prompts_is_told(law, keywords, told):
    with pytest.raises(SettingError, match=told):
        law.generate(["Hi", "Ho"], **keywords)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (HI[0], r"prompts is a dict; expected a string or a conversation .*put it in brackets"),
        ({"a": "Hi"}, "prompts is a dict"),
        (None, "prompts is None; expected a string"),
        (b"Hi", r"prompts is b'Hi' \(bytes\)"),
        (3, r"prompts is 3 \(int\)"),
        ((p for p in ["Hi"]), r"prompts is a generator; .*list\(prompts\) makes a list"),
        ({"Hi"}, "prompts is a set"),
        (["Hi", None], r"prompts\[1\] is None; expected a string or a conversation"),
        ([("user", "Hi")], r"prompts\[0\]\[0\] is 'user' \(str\); expected a message"),
        ([HI[0], "Hi"], r"prompts\[1\] is 'Hi' \(str\); expected a message"),
        (["Hi", HI[0]], r"prompts\[1\] is a dict; .*put it in brackets"),
        ([HI, []], r"prompts\[1\] is an empty conversation"),
        ([{"content": "Hi"}], r"prompts\[0\] has no text in 'role'"),
        ([{"role": "user", "content": 3}], r"prompts\[0\]\['content'\] is 3 \(int\)"),
        ([[*HI, {"role": "user", "content": b"Hi"}]], r"prompts\[0\]\[1\]\['content'\] is b'Hi'"),
    ],
)
def test_a_prompt_of_another_type_is_told_by_its_place_with_what_is_expected(tiny, prompts, told):
    for ask in (tiny.generate, lambda prompts: list(tiny.stream(prompts))):
        with pytest.raises(KameleonError, match=told):
            ask(prompts)


def test_numpy_strings_are_strings_and_an_array_of_them_is_told(tiny):
    numpy = pytest.importorskip("numpy")
    assert tiny.generate(numpy.str_("Hi"), sampling=SHORT) == tiny.generate("Hi", sampling=SHORT)
    with pytest.raises(WrongTypeError, match=r"prompts is a ndarray; .*list\(prompts\) makes a list"):
        tiny.generate(numpy.array(["Hi", "Ho"]))


def test_a_raw_prompt_is_a_string(tiny):
    assert tiny.generate("Hi", sampling=SHORT, raw=True) == tiny.generate(["Hi"], sampling=SHORT, raw=True)[0]
    with pytest.raises(SettingError, match=re.escape("with `raw=True` a prompt is a string")):
        tiny.generate(HI, raw=True)
