"""Tokens as bytes: joined they are the text, for byte pairs on bytes and for SentencePiece."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import TEXTS
from sentence_pieces import sentence_piece
from tiny import tiny_tokenizer

from kameleon.text import TokenBytes

POLISH = "Zażółć gęślą jaźń"


TOKENIZERS = {
    "byte pairs": tiny_tokenizer(),
    "prefixed, as Llama": sentence_piece(prefixed=True),
    "not prefixed, as Gemma": sentence_piece(prefixed=False),
}
ALPHABET = st.one_of(st.sampled_from("gęśHi żółć \n🦎👩‍🚀日e\u0301"), st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.one_of(st.text(ALPHABET), st.sampled_from([*TEXTS, POLISH, "🦎🦎"])))
def test_the_bytes_of_tokens_join_to_the_bytes_of_their_text(kind, text):
    tokenizer, prefix = TOKENIZERS[kind], " " if kind.startswith("prefixed") else ""
    own, tokens = TokenBytes(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(own[token] for token in tokens) == (prefix + text if text else "").encode()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_special_token_has_a_name_and_says_nothing(kind):
    tokenizer = TOKENIZERS[kind]
    own, end = TokenBytes(tokenizer), tokenizer.eos_token_id
    assert end in own.special_ids
    assert (own[end], own.said(end)) == (tokenizer.eos_token.encode(), b"")
    assert own[len(tokenizer) + 5] == b""
