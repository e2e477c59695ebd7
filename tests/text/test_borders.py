"""The border between two texts that are tokenised one after the other: together they decode to both."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kameleon.data import Record, encode_row, make_row
from kameleon.text import ChatTemplate

LETTERS = "\n ./:aehtpé"
WORDS = ["http", "://", "he", "  ", "\n\n", "tt", " ./", "aa", ".e"]


def byte_pairs(alphabet, words, **more):
    """A vocabulary of an alphabet and some words, with every way to join two of them to a third as a merge."""
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(["<unk>", *alphabet, *words, *_parts(words)]))}
    merges = [
        (word[:at], word[at:]) for word in vocab for at in range(1, len(word)) if {word[:at], word[at:]} <= vocab.keys()
    ]
    return Tokenizer(models.BPE(vocab=vocab, merges=[pair for pair in merges if "<" not in pair[0]], **more))


def _parts(words):
    return [word[:end] for word in words for end in range(2, len(word))]


def byte_level(*, add_prefix_space):
    mapped = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = byte_pairs(pre_tokenizers.ByteLevel.alphabet(), [mapped.pre_tokenize_str(word)[0][0] for word in WORDS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece(words=WORDS):
    marked = [word.replace(" ", "▁") for word in [*words, *(f" {word}" for word in words)]]
    return byte_pairs(LETTERS.replace(" ", "▁"), marked, unk_token="<unk>")


def prepending():
    """As Llama 2's tokenizer.json, and as GGUF files of it."""
    tokenizer = sentence_piece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def metaspace(scheme):
    tokenizer = sentence_piece()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=True)
    return tokenizer


def unigram():
    pieces = ["<unk>", *LETTERS.replace(" ", "▁"), *(word.replace(" ", "▁") for word in WORDS), "▁http", "▁he"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(20 - len(piece))) for piece in dict.fromkeys(pieces)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    return tokenizer


KINDS = {
    "byte pairs": byte_level(add_prefix_space=False),
    "byte pairs behind a space": byte_level(add_prefix_space=True),
    "SentencePiece behind a space": prepending(),
    "SentencePiece, always behind a space": metaspace("always"),
    "SentencePiece, a space in front of all": metaspace("first"),
    "SentencePiece without": metaspace("never"),
    "unigrams": unigram(),
}


def template_of(kind):
    tokenizer = KINDS[kind]
    tokenizer.add_special_tokens(["<end>"])
    return ChatTemplate(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"))


TEMPLATES = {kind: template_of(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    prompt=st.text(LETTERS, max_size=12).filter(str.strip), completion=st.text(LETTERS, max_size=12).filter(str.strip)
)
@example(prompt="http:/", completion="/a.th")
@example(prompt=" a ", completion=" a ")
@example(prompt="a\n", completion="\n\na")
def test_prompt_and_answer_decode_to_both_and_the_prompt_is_that_of_generation(kind, prompt, completion):
    template = TEMPLATES[kind]
    row = encode_row(make_row(Record(1, {"prompt": prompt, "completion": completion})), template, raw=True)
    asked = template.encode_text(prompt)
    assert row.tokens[: len(asked)] == asked
    alone = template.tokenizer.decode(template.encode_text(prompt + completion))
    assert template.tokenizer.decode(list(row.tokens[:-1])) == alone
    assert alone.lstrip(" ") == (prompt + completion).lstrip(" ")  # some add a space in front, or take one


def test_an_address_that_the_border_cuts_has_no_space_in_it():
    template = TEMPLATES["SentencePiece behind a space"]
    tokens = (*template.encode_text("http:/"), *template.encode_after("http:/", "/a.th"))
    assert template.tokenizer.decode(list(tokens)) == "http://a.th"
