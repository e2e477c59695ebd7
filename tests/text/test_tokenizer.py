"""The base's own tokenizer, from a folder or rebuilt from GGUF metadata."""

import json
import shutil
import unicodedata

import gguf
import numpy as np
import pytest
from odd_texts import TEXTS
from tiny import write_out
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kameleon.bases import locate
from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model import open_gguf, open_weights
from kameleon.text import ChatTemplate
from kameleon.text.tokenizer import load_tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("1", "2"), ("12", "3"), ("Ġ", "1")]


TOKENS = [*ALPHABET, *("".join(pair) for pair in MERGES), "<|start|>", "<|end|>", "<think>"]


KINDS = [1] * (len(TOKENS) - 3) + [3, 3, 4]


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(
    path,
    pre="smollm",
    model="gpt2",
    leave_out=(),
    tokens=TOKENS,
    kinds=KINDS,
    merges=MERGES,
    add_bos=None,
    template="{{ messages }}",
    **ids,
):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(1)
    if model is not None:
        writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    if "tokens" not in leave_out:
        writer.add_token_list(tokens)
    if "token_type" not in leave_out:
        writer.add_token_types(kinds)
    if "merges" not in leave_out:
        writer.add_token_merges([" ".join(pair) for pair in merges])
    start, end = len(TOKENS) - 3, len(TOKENS) - 2
    for key, value in ({"bos_token_id": start, "eos_token_id": end, "padding_token_id": end} | ids).items():
        writer.add_uint32(f"tokenizer.ggml.{key}", value)
    if "chat_template" not in leave_out:
        writer.add_chat_template(template)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_tensor("output_norm.weight", np.zeros(32, np.float32))
    write_out(writer)
    return path


def load(path):
    return load_tokenizer(path, open_gguf(path))


def reference(pre):
    """The same tokenizer as its Hugging Face repository describes it in tokenizer.json."""
    vocab = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES, ignore_merges=pre == "llama-bpe"))
    digits = {"smollm": None, "gpt-2": None, "llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[pre]
    if digits:
        split = pre_tokenizers.Split(Regex(PATTERN.replace("DIGITS", digits)), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "gpt-2"])
def test_a_gguf_tokenizer_cuts_text_as_the_original_does(tmp_path, pre):
    ours, theirs = load(write(tmp_path / "a.gguf", pre)), reference(pre)
    for text in [*TEXTS, "<|start|>hello<|end|>"]:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["Ġ", "1", "2", "3"]),
        ("llama-bpe", ["Ġ", "123"]),
        ("qwen2", ["Ġ", "1", "2", "3"]),
        ("gpt-2", ["Ġ", "123"]),
    ],
)
def test_digits_are_cut_as_the_pre_tokenizer_says(tmp_path, pre, pieces):
    merges = [pair for pair in MERGES if pair != ("Ġ", "1")]
    tokens = [token for token in TOKENS if token != "Ġ1"]
    path = write(
        tmp_path / "a.gguf",
        pre,
        tokens=tokens,
        kinds=KINDS[1:],
        merges=merges,
        bos_token_id=1,
        eos_token_id=1,
        padding_token_id=1,
    )
    assert load(path).tokenize(" 123") == pieces


def test_llama3_takes_a_known_word_whole_even_where_no_merges_lead_to_it(tmp_path):
    tokens = [*TOKENS[:-3], "zebra", *TOKENS[-3:]]
    shifted = {"bos_token_id": len(TOKENS) - 2, "eos_token_id": len(TOKENS) - 1, "padding_token_id": len(TOKENS) - 1}
    path = write(tmp_path / "a.gguf", "llama-bpe", tokens=tokens, kinds=[1, *KINDS], **shifted)
    assert load(path).tokenize("zebra") == ["zebra"]
    path = write(tmp_path / "b.gguf", "qwen2", tokens=tokens, kinds=[1, *KINDS], **shifted)
    assert load(path).tokenize("zebra") == list("zebra")


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "gpt-2"])
def test_a_text_begins_as_the_file_says_or_else_as_llama_cpp_has_it(tmp_path, pre, add_bos):
    tokenizer = load(write(tmp_path / "a.gguf", pre, add_bos=add_bos))
    wanted = pre == "llama-bpe" if add_bos is None else add_bos
    bare = tokenizer.encode("ab", add_special_tokens=False)
    assert tokenizer("ab")["input_ids"] == [*([tokenizer.bos_token_id] if wanted else []), *bare]
    assert ChatTemplate(tokenizer).opening == ((tokenizer.bos_token_id,) if wanted else ())


def test_text_comes_back_whole(tmp_path):
    for pre in ("smollm", "llama-bpe", "qwen2", "gpt-2"):
        tokenizer = load(write(tmp_path / f"{pre}.gguf", pre))
        for text in TEXTS:
            composed = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == composed


def test_control_and_user_defined_tokens_are_single_and_only_control_ones_special(tmp_path):
    tokenizer = load(write(tmp_path / "a.gguf"))
    ids = tokenizer.encode("<|start|>hello<think><|end|>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|start|>", "hello", "<think>", "<|end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello<think>"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("deepseek-r1-qwen", "qwen2"),
        ("megrez", "qwen2"),
        ("llama3", "llama-bpe"),
        ("falcon3", "llama-bpe"),
        ("phi-2", "gpt-2"),
    ],
)
def test_other_names_of_a_known_pre_tokenizer_cut_text_as_it_does(tmp_path, alias, name):
    ours, known = load(write(tmp_path / "a.gguf", alias)), load(write(tmp_path / "b.gguf", name))
    for text in TEXTS:
        assert ours(text)["input_ids"] == known(text)["input_ids"]


@pytest.mark.parametrize("wrong", [1, 5])
def test_control_tokens_that_a_file_types_as_text_are_control_tokens_and_named(tmp_path, wrong):
    """`<|end|>` is the end token, and the template writes `<|start|>`, but not `<think>`."""
    kinds = [*KINDS[:-3], wrong, wrong, wrong]
    path = write(tmp_path / "a.gguf", kinds=kinds, template="<|start|>{{ messages }}", bos_token_id=0)
    with pytest.warns(UserWarning, match=r"types <\|start\|>, <\|end\|> as ordinary text; read as control tokens"):
        tokenizer = load(path)
    ids = tokenizer.encode("<|start|>hello<think><|end|>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|start|>", "hello", *"<think>", "<|end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello<think>"


def test_roles_and_the_chat_template_are_set(tmp_path):
    tokenizer = load(write(tmp_path / "a.gguf"))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|start|>", "<|end|>", "<|end|>")
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.convert_tokens_to_ids(TOKENS) == list(range(len(TOKENS)))
    assert load(write(tmp_path / "b.gguf", leave_out=["chat_template"])).chat_template is None


@pytest.mark.parametrize(("model", "pre"), [("gpt2", "deepseek-llm"), ("gpt2", None), ("bert", "smollm"), (None, None)])
def test_a_tokenizer_that_would_have_to_be_guessed_is_refused(tmp_path, model, pre):
    with pytest.raises(UnsupportedArchitectureError) as caught:
        load(write(tmp_path / "a.gguf", pre, model))
    assert f"tokenizer {model} with pre-tokenizer {pre!r}" in str(caught.value)
    for known in ("smollm", "llama-bpe", "qwen2", "gpt-2"):
        assert known in str(caught.value).partition("known:")[2]


@pytest.mark.parametrize("key", ["tokens", "token_type", "merges"])
def test_a_gguf_without_part_of_its_tokenizer_is_incomplete(tmp_path, key):
    with pytest.raises(WeightsError, match=rf"a\.gguf holds no readable tokenizer.*{key}"):
        load(write(tmp_path / "a.gguf", leave_out=[key]))


@pytest.mark.parametrize(
    "damage",
    [
        {"eos_token_id": 99999},
        {"kinds": KINDS[:-1]},
        {"merges": [*MERGES, ("no", "such")]},
        {"merges": [("hello",)]},
        {"tokens": [*TOKENS[:-1], TOKENS[0]]},
    ],
    ids=["an id out of range", "fewer types than tokens", "a merge of unknown tokens", "half a merge", "a token twice"],
)
def test_a_gguf_with_a_damaged_tokenizer_is_refused(tmp_path, damage):
    with pytest.raises(WeightsError, match=r"a\.gguf holds no readable tokenizer.*tokenizer\.ggml\."):
        load(write(tmp_path / "a.gguf", **damage))


def test_a_folder_brings_its_own(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder, open_weights(tiny_folder))
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_start|>" in tokenizer.chat_template
    assert tokenizer.decode(tokenizer.encode("héllo 🦎")) == "héllo 🦎"


def test_a_gguf_keeps_the_templates_beside_its_default_one(tmp_path):
    named = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    rows = [{"name": name, "template": text} for name, text in named.items()]
    assert load(write(tmp_path / "a.gguf", template=rows)).chat_template == named
    assert load(write(tmp_path / "b.gguf", template=rows[1:])).chat_template == {"tool_use": "{{ tools }}"}


def test_a_folder_without_a_tokenizer_is_incomplete(tmp_path, tiny_folder):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, tmp_path)
    with pytest.raises(WeightsError, match="holds no readable tokenizer"):
        load_tokenizer(tmp_path, open_weights(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "BPE"}}', '{"version": "1.0"}'])
def test_a_folder_with_a_damaged_tokenizer_is_refused(tmp_path, tiny_folder, text):
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match="holds no readable tokenizer"):
        load_tokenizer(tmp_path, open_weights(tmp_path))


def test_a_tokenizer_that_is_code_of_its_own_is_refused_and_nobody_is_asked(tmp_path, tiny_folder, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    said = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    with pytest.raises(WeightsError, match="holds no readable tokenizer"):
        load_tokenizer(tmp_path, None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_packaged_smollm2s_tokens_are_those_of_transformers_conversion():
    """But for digits beyond ASCII: the conversion leaves out that SmolLM2 cuts before and after every digit."""
    path = locate("smollm2").path
    if path.suffix != ".gguf":
        pytest.skip("the hub delivered its own tokenizer")
    ours = load(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    texts = [
        *TEXTS,
        "Zażółć gęślą jaźń, 1,000.50 zł",
        "def f(x):\n\treturn x[0]  # 12",
        "<|im_start|>user\nhi<|im_end|>\n",
    ]
    for text in texts:
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text, add_special_tokens=False)) == text
    assert ours.tokenize("a²³") == ["a", *ours.tokenize("²"), *ours.tokenize("³")]
    assert (ours.eos_token, ours.chat_template) == (theirs.eos_token, theirs.chat_template)
