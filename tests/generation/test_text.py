"""Tokens become text: nothing that was given out is taken back."""

import pytest

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
