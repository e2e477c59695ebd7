"""Tokens become text: nothing that was given out is taken back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_pieces import sentence_piece
from tiny import tiny_tokenizer

from kameleon.generation.stops import StopSearch
from kameleon.generation.text import TextStream
from kameleon.text import TokenBytes


def streamed(tiny, text, *stops):
    """What is given out as the tokens of `text`, each a byte, come in one by one; and the whole."""
    stream, tokens = TextStream(TokenBytes(tiny.base.tokenizer), stops), list(tiny.base.template.encode_text(text))
    assert len(tokens) == len(text.encode())
    given = []
    for count, token in enumerate(tokens, 1):
        given.append(stream.take([token], finished=count == len(tokens)))
        if stream.stopped:
            break
    return "".join(given), stream.text


@pytest.mark.parametrize("stop", ["é", "né", "ê!", "🦎", "n🦎", "\n🦎\n"])
@pytest.mark.parametrize("text", ["né!", "nê!", "n🦎", "n\n🦎", "n\n🦎\n", "n🦎é"])
def test_a_stop_string_whose_characters_come_in_halves_is_never_given_out(tiny, text, stop):
    expected = text.partition(stop)[0]
    assert streamed(tiny, text, "absent", stop) == (expected, expected)


LETTERS = "ab\N{LATIN SMALL LETTER E WITH ACUTE}\N{LIZARD}"


def searched_anew(parts, stops):
    """What a stream gives out after each part of a text, its end included: the whole text is searched each time."""
    text, given, shown = "", [], 0
    for number, part in enumerate(parts, 1):
        text += part
        found = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        text = text[:found]
        held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        certain = len(text) - held if found is None and number < len(parts) else len(text)
        given.append(text[shown:certain])
        shown = certain
        if found is not None:
            break
    return given, found is not None


class Parts:
    """Tokens that are texts: the numbers of parts."""

    def __init__(self, parts):
        self._parts = parts

    def said(self, token):
        return self._parts[token]


@settings(max_examples=60)
@given(
    parts=st.lists(st.text(LETTERS, max_size=4), min_size=1, max_size=20),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=4),
)
def test_stop_strings_are_found_and_held_back_as_by_a_search_of_the_whole_text(parts, stops):
    stream, given = TextStream(Parts([part.encode() for part in parts]), stops), []
    for number in range(len(parts)):
        given.append(stream.take([number], finished=number == len(parts) - 1))
        if stream.stopped:
            break
    assert (given, stream.stopped) == searched_anew(parts, stops)
    assert stream.text == "".join(given)


@settings(max_examples=40)
@given(text=st.text(LETTERS, max_size=20), stops=st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_a_text_that_comes_byte_by_byte_is_searched_character_by_character(text, stops):
    halves = [bytes([byte]) for byte in text.encode()]
    stream, given = TextStream(Parts(halves), stops), []
    for number in range(len(halves)):
        given.append(stream.take([number], finished=number == len(halves) - 1))
        if stream.stopped:
            break
    expected = searched_anew(list(text), stops)[0] if text else []
    assert "".join(given) == "".join(expected)


class Counted(str):
    """A text that counts how often one of its characters is looked at."""

    looks = 0

    def __getitem__(self, at):
        Counted.looks += 1
        return super().__getitem__(at)


def test_each_character_of_an_answer_is_compared_with_a_stop_string_a_few_times_however_long_both_are():
    search, read = StopSearch([Counted("a" * 999 + "b")]), 20_000
    Counted.looks = 0
    for _ in range(read // 4):
        assert search.read("aaaa") is None
    assert Counted.looks <= 4 * read
    assert search.begun == 999 and search.read("b") == -999


TOKENIZERS = {"byte pairs": tiny_tokenizer(), "pieces": sentence_piece(prefixed=True)}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("gęśH żółć \n🦎👩\u200d🚀日")))
def test_characters_are_given_out_whole_and_the_first_word_keeps_its_space(kind, text):
    tokens = TOKENIZERS[kind].encode(" " + text, add_special_tokens=False)
    stream = TextStream(TokenBytes(TOKENIZERS[kind]), ())
    pieces = [stream.take([token], finished=False) for token in tokens]
    begun = "  " if kind == "pieces" else " "
    assert "".join(pieces) == stream.text == begun + text


def test_a_character_that_never_ends_becomes_a_replacement_character_at_the_end(tiny):
    stream, tokens = TextStream(TokenBytes(tiny.base.tokenizer), ()), list(tiny.base.template.encode_text("a🦎"))[:-1]
    assert stream.take(tokens, finished=False) == "a"
    assert stream.take([], finished=True) == "\N{REPLACEMENT CHARACTER}"
    assert stream.text == "a\N{REPLACEMENT CHARACTER}"
