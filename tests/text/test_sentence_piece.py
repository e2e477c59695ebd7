"""SentencePiece's tokenizer, rebuilt from GGUF metadata."""

import io
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from odd_texts import TEXTS
from tiny import write_out
from transformers import AutoTokenizer

from kameleon.bases import locate
from kameleon.errors import WeightsError
from kameleon.model import open_gguf
from kameleon.text.tokenizer import load_tokenizer

USER_DEFINED = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<table>"]  # as Gemma has them


def load(path):
    return load_tokenizer(path, open_gguf(path))


@pytest.fixture(scope="module", params=[True, False], ids=["prefixed, as Llama", "with symbols, as Gemma"])
def sentence_piece(request, tmp_path_factory):
    """A vocabulary trained by SentencePiece itself, and the GGUF that llama.cpp's converter makes of it."""
    prefixed, trained = request.param, io.BytesIO()
    license_lines = (Path(__file__).parents[2] / "LICENSE").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*license_lines, "Zażółć gęślą jaźń, naïve 日本語 🦎"] * 2),
        model_writer=trained,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=0.999,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefixed,
        user_defined_symbols=[] if prefixed else USER_DEFINED,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    count = range(theirs.get_piece_size())
    tokens = [theirs.id_to_piece(i) for i in count]
    tokens = [token.replace("▁", " ") if token in USER_DEFINED else token for token in tokens]
    kinds = [2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in count]
    if not prefixed:
        kinds = [4 if theirs.id_to_piece(i) in USER_DEFINED else kind for i, kind in enumerate(kinds)]
    path = tmp_path_factory.mktemp("pieces") / "a.gguf"
    scores = [theirs.get_score(i) for i in count]
    write_pieces(path, tokens, scores, kinds, add_space_prefix=None if prefixed else False)
    return theirs, load(path)


def write_pieces(path, tokens, scores, kinds, add_space_prefix=None, add_bos=None, leave_out=(), template=None, **ids):
    writer = gguf.GGUFWriter(path, "llama")
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    if "scores" not in leave_out:
        writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    for role, index in ({"unknown": 0, "bos": 1, "eos": 2} | ids).items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", index)
    if add_space_prefix is not None:
        writer.add_add_space_prefix(add_space_prefix)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_tensor("output_norm.weight", np.zeros(32, np.float32))
    write_out(writer)
    return path


PIECE_TEXTS = [
    *TEXTS,
    " ",
    "      many     spaces  and \t tabs ",
    "\n\n\n\n\nfour\n\n  three\r\n",
    "Licensed under the Apache License, Version 2.0",
    "🦎🦎👩‍👩‍👧 \u0000\u200b\ufeff unknown ж",
    "a <table> in <0x41> text",
    "x" * 300,
]


@pytest.mark.parametrize("text", PIECE_TEXTS)
def test_a_sentencepiece_gguf_cuts_text_as_sentencepiece_does(sentence_piece, text):
    theirs, ours = sentence_piece
    tokens = ours.encode(text, add_special_tokens=False)
    assert tokens == theirs.encode(text)
    assert ours.decode(tokens) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_cut_as_sentencepiece_does(sentence_piece, text):
    theirs, ours = sentence_piece
    # A text that spells a special token is that token in Hugging Face's tokenizers, and plain text in SentencePiece.
    assume(not any(token in text for token in ours.all_special_tokens))
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "<turn>"]


PIECE_SCORES = [0.0] * 259 + [float(score) for score in range(-10, 0)] + [0.0]


PIECE_KINDS = [2, 3, 3, *[6] * 256, *[1] * 9, 1, 3]


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_a_sentencepiece_text_begins_as_the_file_says_or_else_as_llama_cpp_has_it(tmp_path, add_bos):
    tokenizer = load(write_pieces(tmp_path / "a.gguf", PIECES, PIECE_SCORES, PIECE_KINDS, add_bos=add_bos))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.tokenize("hello hello é") == ["▁hello", "▁hello", "▁", "<0xC3>", "<0xA9>"]
    bare = tokenizer.encode("hello hello é", add_special_tokens=False)
    assert tokenizer.decode(bare) == "hello hello é"
    assert tokenizer("hello hello é")["input_ids"] == (bare if add_bos is False else [1, *bare])


@pytest.mark.parametrize(("prefixed", "after"), [(None, "▁hello"), (False, "hello")])
def test_special_tokens_cut_sentencepiece_text_and_a_space_follows_them_where_one_opens_the_text(
    tmp_path, prefixed, after
):
    path = write_pieces(tmp_path / "a.gguf", PIECES, PIECE_SCORES, PIECE_KINDS, add_space_prefix=prefixed)
    tokenizer = load(path)
    ids = tokenizer.encode("<turn>hello<turn>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<turn>", after, "<turn>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello"


def test_a_sentencepiece_file_that_types_control_tokens_as_text_cuts_them_no_more(tmp_path):
    """But `<he>` is joined of other pieces, so it is text."""
    pieces, kinds = [*PIECES, "<", "<he", ">", "<he>"], [2, 1, 1, *PIECE_KINDS[3:-1], 1, 1, 1, 1, 1]
    path = write_pieces(
        tmp_path / "a.gguf", pieces, [*PIECE_SCORES, -9.0, -8.0, -9.0, -7.0], kinds, template="<turn><he>"
    )
    with pytest.warns(UserWarning, match="types <s>, </s>, <turn> as ordinary text"):
        tokenizer = load(path)
    ids = tokenizer.encode("<turn>hello <he></s>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<turn>", "▁hello", "▁", "<he>", "</s>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello <he>"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"leave_out": ["scores"]}, r"lacks the metadata tokenizer\.ggml\.scores"),
        ({"scores": PIECE_SCORES[1:]}, r"tokenizer\.ggml\.scores in .* has 269 values; it must have 270"),
        ({"scores": ["high"] * len(PIECES)}, r"tokenizer\.ggml\.scores in .* is 'high'; it must be a number"),
        ({"kinds": PIECE_KINDS[1:]}, r"tokenizer\.ggml\.token_type in .* has 269 values; it must have 270"),
        ({"tokens": [*PIECES[:-1], "h"]}, r"tokenizer\.ggml\.tokens holds 'h' twice"),
        ({"tokens": list(range(len(PIECES)))}, r"tokenizer\.ggml\.tokens in .* is 0; it must be text"),
        ({"bos": 270}, r"tokenizer\.ggml\.bos_token_id is 270; there are only 270 tokens"),
    ],
)
def test_damaged_sentencepiece_metadata_is_named(tmp_path, damage, said):
    whole = {"tokens": PIECES, "scores": PIECE_SCORES, "kinds": PIECE_KINDS}
    with pytest.raises(WeightsError, match=r"a\.gguf holds no readable tokenizer.*" + said):
        load(write_pieces(tmp_path / "a.gguf", **whole | damage))


@pytest.mark.slow
def test_the_packaged_gemma3s_tokens_are_those_of_transformers_conversion():
    path = locate("gemma3-270m").path
    if path.suffix != ".gguf":
        pytest.skip("the hub delivered its own tokenizer")
    ours = load(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    for text in [*PIECE_TEXTS, "Zażółć gęślą jaźń, 1,000.50 zł", "<start_of_turn>user\nhi<end_of_turn>\n"]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text, add_special_tokens=False)) == text
    assert ours("hi")["input_ids"][0] == ours.bos_token_id
