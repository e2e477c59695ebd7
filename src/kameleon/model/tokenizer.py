"""The base's own tokenizer, from a folder in Hugging Face layout or out of a GGUF file's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kameleon.errors import BaseModelError, UnsupportedArchitectureError, WeightsError
from kameleon.weights import GgufFile, WeightFile

_CONTROL, _USER_DEFINED = 3, 4  # token types of the GGUF specification


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    """The word pattern of Llama 3 and Qwen2, which differ in how many digits make a token."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _single_digits() -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])


# What `tokenizer.ggml.pre` names: how text is cut before the merges of byte-pair encoding.
_PRE_TOKENIZERS = {
    "smollm": _single_digits,
    "llama-bpe": lambda: _split(r"\p{N}{1,3}"),
    "qwen2": lambda: _split(r"\p{N}"),
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
}


def load_tokenizer(path: Path, weights: WeightFile) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template set, if the base has one. Nothing is fetched.

    Raises WeightsError for missing or unreadable files, UnsupportedArchitectureError for a kind of tokenizer that
    would have to be guessed.
    """
    try:
        if isinstance(weights, GgufFile):
            return _from_gguf(weights)
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except BaseModelError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, transformers whatever a damaged file leads to
        raise WeightsError(f"{path} holds no readable tokenizer: {error}; fetch the base again") from error


def _from_gguf(file: GgufFile) -> PreTrainedTokenizerBase:
    metadata = file.metadata
    kind = metadata.get("tokenizer.ggml.model")
    pre = metadata.get("tokenizer.ggml.pre")  # files of before May 2024 lack it, and their tokens would be guesses
    if kind == "llama":  # SentencePiece, which transformers knows how to rebuild
        tokenizer = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name, local_files_only=True)
    elif kind == "gpt2" and pre in _PRE_TOKENIZERS:
        tokenizer = _fast(metadata, pre)
    else:
        known = ", ".join(_PRE_TOKENIZERS)
        raise UnsupportedArchitectureError(
            f"tokenizer {kind} with pre-tokenizer {pre!r} in {file.path} (known: {known}); "
            "take a newer conversion, or the base's folder in Hugging Face layout"
        )
    # Where the file says nothing: as llama.cpp, which has it so for SentencePiece and Llama 3.
    tokenizer.add_bos_token = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre == "llama-bpe")
    return tokenizer


def _fast(metadata: dict[str, Any], pre: str) -> PreTrainedTokenizerFast:
    tokens = metadata["tokenizer.ggml.tokens"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(metadata, tokens, pre),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **{
            f"{role}_token": tokens[metadata[key]]
            for role, key in (
                ("bos", "tokenizer.ggml.bos_token_id"),
                ("eos", "tokenizer.ggml.eos_token_id"),
                ("unk", "tokenizer.ggml.unknown_token_id"),
                ("pad", "tokenizer.ggml.padding_token_id"),
            )
            if key in metadata
        },
    )


def _byte_pairs(metadata: dict[str, Any], tokens: list[str], pre: str) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for merge in metadata["tokenizer.ggml.merges"]:
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    # Llama 3 takes a word that is in the vocabulary whole, even where no merges lead to it.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    for kind, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        special = kind == _CONTROL
        add([AddedToken(t, special=special, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == kind])
    return tokenizer
