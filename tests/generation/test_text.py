"""Tokens become text: nothing that was given out is taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_pieces import sentence_piece
from tiny import tiny_tokenizer

from kameleon.generation.text import TextStream
from kameleon.text import TokenBytes


def streamed(tiny, text, *stops):
    """What is given out as the tokens of `text`, each a byte, come in one by one; and the whole."""
    stream, tokens = TextStream(TokenBytes(tiny.base.tokenizer), stops), list(tiny.base.template.encode_text(text))
    assert len(tokens) == len(text.encode())
    given = []
    for count in range(1, len(tokens) + 1):
        given.append(stream.take(tokens[:count], finished=count == len(tokens)))
        if stream.stopped:
            break
    return "".join(given), stream.text


@pytest.mark.parametrize("stop", ["é", "né", "ê!", "🦎", "n🦎", "\n🦎\n"])
@pytest.mark.parametrize("text", ["né!", "nê!", "n🦎", "n\n🦎", "n\n🦎\n", "n🦎é"])
def test_a_stop_string_whose_characters_come_in_halves_is_never_given_out(tiny, text, stop):
    expected = text.partition(stop)[0]
    assert streamed(tiny, text, "absent", stop) == (expected, expected)


@pytest.mark.timeout(20)
def test_a_stop_string_of_a_million_characters_costs_nothing(tiny):
    assert streamed(tiny, "aaaa" * 50, "a" * 1_000_000, "b" * 1_000_000) == ("aaaa" * 50,) * 2


TOKENIZERS = {"byte pairs": tiny_tokenizer(), "pieces": sentence_piece(prefixed=True)}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("gęśH żółć \n🦎👩\u200d🚀日")))
def test_characters_are_given_out_whole_and_the_first_word_keeps_its_space(kind, text):
    tokens = TOKENIZERS[kind].encode(" " + text, add_special_tokens=False)
    stream = TextStream(TokenBytes(TOKENIZERS[kind]), ())
    pieces = [stream.take(tokens[: count + 1], finished=False) for count in range(len(tokens))]
    begun = "  " if kind == "pieces" else " "
    assert "".join(pieces) == stream.text == begun + text


def test_a_character_that_never_ends_becomes_a_replacement_character_at_the_end(tiny):
    stream, tokens = TextStream(TokenBytes(tiny.base.tokenizer), ()), list(tiny.base.template.encode_text("a🦎"))[:-1]
    assert stream.take(tokens, finished=False) == "a"
    assert stream.take(tokens, finished=True) == "\N{REPLACEMENT CHARACTER}"
    assert stream.text == "a\N{REPLACEMENT CHARACTER}"
