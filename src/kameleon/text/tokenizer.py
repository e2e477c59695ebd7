"""The base's own tokenizer, from a folder in Hugging Face layout or out of a GGUF file's metadata.

The latter is built by hand: transformers' own conversion ignores the pre-tokenizer that the file names, and takes
several times as long.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.weights import GgufFile, Metadata, WeightFile

_SENTENCE_PIECE, _BYTE_PAIRS = "llama", "gpt2"  # kinds of tokenizers, as `tokenizer.ggml.model` names them
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # token types of the GGUF specification
_CONTROL_FORM = re.compile(
    r"<[^<>\s]*\w[^<>\s]*>|\[/?[A-Z_]+\]"
)  # as control tokens are written: <|im_start|>, </s>, [INST]
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's letter for a space


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    """The word pattern of Llama 3 and Qwen2, which differ in the number of digits in a token."""
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


@dataclass(frozen=True)
class _PreTokenizer:
    """What llama.cpp binds to one value of `tokenizer.ggml.pre`."""

    cut: Callable[[], pre_tokenizers.PreTokenizer]
    """How text is cut into words before byte pairs are merged."""
    normalizer: Callable[[], normalizers.Normalizer] | None = None
    takes_whole_words: bool = False
    """Whether a word of the vocabulary is one token even if no merges lead to it."""
    begins_text: bool = False
    """Whether the beginning-of-text token is put before a text if the file does not say."""


_PRE_TOKENIZERS = {
    "smollm": _PreTokenizer(_single_digits),
    "llama-bpe": _PreTokenizer(lambda: _split(r"\p{N}{1,3}"), takes_whole_words=True, begins_text=True),
    "qwen2": _PreTokenizer(lambda: _split(r"\p{N}"), normalizers.NFC),
    "gpt-2": _PreTokenizer(lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)),
}
# Names that llama.cpp gives to the same pre-tokenizer.
_ALIASES = {
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "qwen2": ("deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"),
    "gpt-2": ("phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4"),
}
_PRE_TOKENIZERS |= {alias: _PRE_TOKENIZERS[name] for name, aliases in _ALIASES.items() for alias in aliases}


def load_tokenizer(path: Path, weights: WeightFile | None) -> PreTrainedTokenizerBase:
    """The tokenizer, with the base's chat template if it has one.

    Nothing is fetched and no tensor is read; `weights` may be None for a folder.
    Raises WeightsError for missing or unreadable files, UnsupportedArchitectureError for an unknown kind of tokenizer.
    """
    try:
        if isinstance(weights, GgufFile):
            return _from_gguf(weights)
        # Code out of a base's folder is never run. Without the argument transformers would ask on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except UnsupportedArchitectureError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, transformers any error
        raise WeightsError(f"{path} holds no readable tokenizer: {error}; fetch the base again") from error
    # transformers passes it on as it is, and compares it with the length of each text.
    Metadata(vars(tokenizer), f"the tokenizer_config.json of {path}").find("model_max_length", float, None)
    return tokenizer


def _from_gguf(file: GgufFile) -> PreTrainedTokenizerBase:
    metadata = file.metadata
    kind = metadata.find("tokenizer.ggml.model", str, None)
    # Files from before May 2024 do not name it, and byte pairs without it would be guesses.
    pre = metadata.find("tokenizer.ggml.pre", str, None)
    if kind != _SENTENCE_PIECE and (kind != _BYTE_PAIRS or pre not in _PRE_TOKENIZERS):
        known = ", ".join(_PRE_TOKENIZERS)
        raise UnsupportedArchitectureError(
            f"tokenizer {kind} with pre-tokenizer {pre!r} in {file.path} (known: llama, and gpt2 with {known}); "
            "take a newer conversion, or the base's folder in Hugging Face layout"
        )
    tokens = metadata.row("tokenizer.ggml.tokens", str)
    kinds = _token_kinds(file, tokens)
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocab[token] != index)
        raise WeightsError(f"tokenizer.ggml.tokens holds {twice!r} twice")
    roles = {
        f"{role}_token": tokens[index]
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (index := _token_id(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens))) is not None
    }
    if kind == _SENTENCE_PIECE:
        normal = {token for token, one in zip(tokens, kinds, strict=True) if one == _NORMAL}
        tokenizer, begins = _sentence_piece(metadata, vocab, normal, roles.get("unk_token")), True
    else:
        cutting = _PRE_TOKENIZERS[str(pre)]
        tokenizer, begins = _byte_pairs(metadata, vocab, cutting), cutting.begins_text
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
    fast.add_bos_token = metadata.find("tokenizer.ggml.add_bos_token", bool, begins)  # llama.cpp's defaults
    return fast


def _token_kinds(file: GgufFile, tokens: Sequence[str]) -> list[int]:
    """The type of each token.

    Some files type control tokens as ordinary text, which would cut them to pieces. Tokens that look like control
    tokens become control tokens if they begin or end a text, or if the chat template writes them. A warning names them.
    """
    metadata = file.metadata
    kinds = metadata.row("tokenizer.ggml.token_type", int, len(tokens))
    names = ("bos", "eos", "eot", "eom")
    ids = {_token_id(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens)) for name in names}
    found = _templates(metadata) or ""
    written = found if isinstance(found, str) else "".join(found.values())
    typed = list(zip(tokens, kinds, strict=True))
    text = {token for token, kind in typed if kind == _NORMAL} if "tokenizer.ggml.scores" in metadata else set[str]()
    control = {
        index
        for index, (token, kind) in enumerate(typed)
        if kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE) and _CONTROL_FORM.fullmatch(token)
        if index in ids or (token in written and not _is_joined(token, text))
    }
    if control:
        told = ", ".join(tokens[index] for index in sorted(control))
        warnings.warn(f"{file.path} types {told} as ordinary text; read as control tokens", stacklevel=2)
    return [_CONTROL if index in control else kind for index, kind in enumerate(kinds)]


def _is_joined(token: str, pieces: Collection[str]) -> bool:
    """Whether SentencePiece could join the token of two pieces of text. Byte pairs never join signs and letters so."""
    return any(token[:at] in pieces and token[at:] in pieces for at in range(1, len(token)))


def _templates(metadata: Metadata) -> str | dict[str, str] | None:
    """The chat template; if the file has several (such as `tool_use`), all by their names, as in a folder."""
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


def _byte_pairs(metadata: Metadata, vocab: dict[str, int], cutting: _PreTokenizer) -> Tokenizer:
    """GPT-2's byte pairs (Sennrich et al., 2016, arXiv:1508.07909, on bytes): merges in the order of the file."""
    merges: list[tuple[str, str]] = []
    for merge in metadata.row("tokenizer.ggml.merges", str):
        left, _, right = merge.partition(" ")
        if not (left in vocab and right in vocab and left + right in vocab):
            raise WeightsError(f"tokenizer.ggml.merges holds {merge!r}, which does not make a token of two others")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=cutting.takes_whole_words))
    if cutting.normalizer is not None:
        tokenizer.normalizer = cutting.normalizer()
    tokenizer.pre_tokenizer = cutting.cut()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Metadata, vocab: dict[str, int], normal: set[str], unknown: str | None) -> Tokenizer:
    """SentencePiece's byte pairs (Kudo and Richardson, 2018, arXiv:1808.06226): Llama 2, Mistral, Gemma.

    The file has no merges but a score for each token: of all neighbours that make a token, those with the highest
    score are joined first. So each way to cut a token in two is a merge, in the order of the scores. Text that no
    token covers is written in bytes. Like llama.cpp, it puts a space before text and after each special token, unless
    the file says otherwise (Gemma's files do).
    """
    scores = metadata.row("tokenizer.ggml.scores", float, len(vocab))
    merges = [
        (token[:at], token[at:])
        for token in sorted(normal, key=lambda token: (-scores[vocab[token]], vocab[token]))
        for at in range(1, len(token))
        if token[:at] in normal and token[at:] in normal
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefixed = metadata.find("tokenizer.ggml.add_space_prefix", bool, default=True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer
