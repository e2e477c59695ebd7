"""Answers held to a form: names of special tokens in it, and what happens where the grammar's library gives up."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from kameleon import Sampling
from kameleon.errors import SettingError
from kameleon.generation import Grammars
from kameleon.generation.constraint import Constraint
from kameleon.settings import Form

END = "<|im_end|>"


def said(tiny, *, schema=None, seed=0, **wish):
    text = None if schema is None else json.dumps(schema)
    sampling = Sampling(max_tokens=150, temperature=1.0, seed=seed, json_schema=text, **wish)
    return tiny.generate(["hello"], sampling=sampling)[0]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": END}, END),
        ({"enum": [f"a{END}b<|im_start|>"]}, f"a{END}b<|im_start|>"),
        ({"const": {END: [END, "<|im_start|>"]}}, {END: [END, "<|im_start|>"]}),
        (
            {"properties": {END: {"const": 1}}, "required": [END], "additionalProperties": False, "type": "object"},
            {END: 1},
        ),
        ({"type": "string", "pattern": r"^<\|im_end\|>!$"}, f"{END}!"),
    ],
    ids=["const", "enum", "within", "property", "pattern"],
)
def test_a_schema_may_spell_a_special_token(tiny, schema, value):
    got = said(tiny, schema=schema)
    assert (json.loads(got.text), got.finish) == (value, "stop")


def test_an_expression_may_spell_a_special_token(tiny):
    got = said(tiny, regex=r"(<\|im_end\|>){2}<\|im_start\|>x")
    assert (got.text, got.finish) == (f"{END}{END}<|im_start|>x", "stop")


class Failing:
    """The library's matcher, which gives up after three tokens."""

    def __init__(self, real):
        self._real, self._taken = real, 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def consume_token(self, token):
        self._taken += 1
        return self._taken < 3 and self._real.consume_token(token)

    def is_error(self):
        return self._taken >= 3

    def is_stopped(self):
        return self.is_error() or self._real.is_stopped()

    def get_error(self):
        return "too complex"


@pytest.fixture
def failing(monkeypatch):
    real = Constraint.__init__

    def make(self, *given):
        real(self, *given)
        self._matcher = Failing(self._matcher)

    monkeypatch.setattr(Constraint, "__init__", make)


def test_where_the_library_gives_up_the_request_fails(tiny, failing):
    with pytest.raises(SettingError, match="regex cannot be followed: too complex"):
        said(tiny, regex="[ab]{9}")


def pieces_without_bytes():
    """SentencePiece's kind with a space before every text, and no tokens for single bytes."""
    words = ["<unk>", "▁", "a", "b", "▁a", "ab", "▁ab"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(words)}, merges=merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


class FewWords:
    def __init__(self, tokenizer):
        self.tokenizer, self.stop_token_ids = tokenizer, frozenset({tokenizer.eos_token_id})
        self.config = replace(FewWords.config, vocab_size=len(tokenizer))


@pytest.fixture
def few_words(tiny):
    FewWords.config = tiny.base.config
    return FewWords(pieces_without_bytes())


def constraint_of(regex, base):
    return Grammars(base, compile_cpu_s=1).constraint(Form("regex", regex))


def allowed(constraint):
    return constraint._allowed.nonzero().flatten().tolist()


def test_text_that_the_form_demands_begins_without_the_space_of_a_whole_text(few_words):
    vocab = few_words.tokenizer.get_vocab()
    assert allowed(constraint_of("abab", few_words)) == [vocab["ab"]]
    assert allowed(constraint_of(" abab", few_words)) == [vocab["▁ab"]]


def test_a_form_that_no_token_can_write_is_refused_at_the_start_or_where_it_comes(few_words):
    with pytest.raises(SettingError, match="regex cannot be followed"):
        constraint_of("ż", few_words)
    constraint = constraint_of("abż", few_words)
    with pytest.raises(SettingError, match="regex cannot be followed"):
        while not constraint.take(allowed(constraint)[0]):
            pass
