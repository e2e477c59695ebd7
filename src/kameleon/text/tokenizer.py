"""The base's own tokenizer, from a folder in Hugging Face layout or out of a GGUF file's metadata."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.weights import GgufFile, Metadata, WeightFile

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types of the GGUF specification
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


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


def load_tokenizer(path: Path, weights: WeightFile | None) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template set, if the base has one. Nothing is fetched, and no tensor is looked at:
    of a folder, `weights` may be None.

    Raises WeightsError for missing or unreadable files, UnsupportedArchitectureError for a kind of tokenizer that
    would have to be guessed.
    """
    try:
        if isinstance(weights, GgufFile):
            return _from_gguf(weights)
        # Code that comes with a base is never run; unless told so, transformers asks on the terminal.
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except UnsupportedArchitectureError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, transformers whatever a damaged file leads to
        raise WeightsError(f"{path} holds no readable tokenizer: {error}; fetch the base again") from error


def _from_gguf(file: GgufFile) -> PreTrainedTokenizerBase:
    metadata = file.metadata
    kind = metadata.find("tokenizer.ggml.model", str, None)
    # Files of before May 2024 lack it, and their byte pairs would be guesses.
    pre = metadata.find("tokenizer.ggml.pre", str, None)
    if kind != "llama" and (kind != "gpt2" or pre not in _PRE_TOKENIZERS):
        known = ", ".join(_PRE_TOKENIZERS)
        raise UnsupportedArchitectureError(
            f"tokenizer {kind} with pre-tokenizer {pre!r} in {file.path} (known: llama, and gpt2 with {known}); "
            "take a newer conversion, or the base's folder in Hugging Face layout"
        )
    tokens = metadata.row("tokenizer.ggml.tokens", str)
    kinds = metadata.row("tokenizer.ggml.token_type", int, len(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocab[token] != index)
        raise WeightsError(f"tokenizer.ggml.tokens holds {twice!r} twice")
    roles = {
        f"{role}_token": tokens[index]
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (index := _token_id(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens))) is not None
    }
    if kind == "llama":
        normal = {token for token, one in zip(tokens, kinds, strict=True) if one == _NORMAL}
        tokenizer = _sentence_piece(metadata, vocab, normal, roles.get("unk_token"))
    else:
        tokenizer = _byte_pairs(metadata, vocab, str(pre))
    for wanted, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        special = wanted == _CONTROL
        chosen = (token for token, one in zip(tokens, kinds, strict=True) if one == wanted)
        add([AddedToken(token, special=special, normalized=False) for token in chosen])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=_templates(metadata),
        clean_up_tokenization_spaces=False,
        **roles,
    )
    # Where the file says nothing: as llama.cpp, which has it so for SentencePiece and Llama 3.
    begins = kind == "llama" or pre == "llama-bpe"
    fast.add_bos_token = metadata.find("tokenizer.ggml.add_bos_token", bool, begins)
    return fast


def _templates(metadata: Metadata) -> str | dict[str, str] | None:
    """The chat template; with others beside it (`tool_use`, for one) all by their names, as in a folder."""
    key = "tokenizer.chat_template"
    default = metadata.find(key, str, None)
    names = metadata.row(f"{key}s", str) if f"{key}s" in metadata else []
    named = {name: metadata.need(f"{key}.{name}", str) for name in names}
    return default if not named else named if default is None else {"default": default, **named}


def _token_id(metadata: Metadata, key: str, count: int) -> int | None:
    token = metadata.find(key, int, None)
    if token is not None and not 0 <= token < count:
        raise WeightsError(f"{key} is {token}; there are only {count:,} tokens")
    return token


def _byte_pairs(metadata: Metadata, vocab: dict[str, int], pre: str) -> Tokenizer:
    """GPT-2's kind (Sennrich et al., 2016, arXiv:1508.07909, on bytes): merges in the order of the file."""
    merges: list[tuple[str, str]] = []
    for merge in metadata.row("tokenizer.ggml.merges", str):
        left, _, right = merge.partition(" ")
        if not (left in vocab and right in vocab and left + right in vocab):
            raise WeightsError(f"tokenizer.ggml.merges holds {merge!r}, which does not make a token of two others")
        merges.append((left, right))
    # Llama 3 takes a word that is in the vocabulary whole, even where no merges lead to it.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Metadata, vocab: dict[str, int], normal: set[str], unknown: str | None) -> Tokenizer:
    """SentencePiece's byte pairs (Kudo and Richardson, 2018, arXiv:1808.06226): Llama 2, Mistral, Gemma.

    It keeps no merges but a score for each token: of all neighbours that make a token, those of the highest score are
    joined first. So each way to cut a token in two is a merge, in the order of the scores. What is in no token is
    written in bytes. As llama.cpp does, a space is put before text and after each special token, unless the file says
    otherwise (Gemma's does).
    """
    scores = metadata.row("tokenizer.ggml.scores", float, len(vocab))
    merges = [
        (token[:at], token[at:])
        for token in sorted(normal, key=lambda token: (-scores[vocab[token]], vocab[token]))
        for at in range(1, len(token))
        if token[:at] in normal and token[at:] in normal
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefixed = metadata.find("tokenizer.ggml.add_space_prefix", bool, True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer
