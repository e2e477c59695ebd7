"""The bytes that each token stands for. A character may be split between tokens, so bytes are what joins exactly."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SENTENCE_PIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's letter for a space
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's token of one byte


def encoder_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizers library's own object behind a tokenizer."""
    return cast(Tokenizer, cast(PreTrainedTokenizerFast, tokenizer).backend_tokenizer)


def special_ids_of(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that mark a place in a text, such as the end of a turn; they are no part of what it says."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {token for token, entry in added if entry.special}


class TokenBytes:
    """The bytes of a tokenizer's tokens, for byte pairs on bytes (GPT-2's kind) and for SentencePiece.

    Joined, they are the UTF-8 text, with each space that a token holds: a decoder of a whole text drops the first one
    where the tokenizer puts a space before every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._added = {token: entry.content.encode() for token, entry in tokenizer.added_tokens_decoder.items()}
        self.special_ids = special_ids_of(tokenizer)
        self._letters = _byte_letters() if "ByteLevel" in repr(encoder_of(tokenizer).decoder) else None

    def __getitem__(self, token: int) -> bytes:
        """The bytes of one token; a special token's name, and nothing for a number without a token."""
        if token in self._added:
            return self._added[token]
        piece = self._tokenizer.convert_ids_to_tokens(token) or ""
        assert isinstance(piece, str)
        if self._letters is not None:
            whole = all(letter in self._letters for letter in piece)
            return bytes(self._letters[letter] for letter in piece) if whole else piece.encode()
        if found := _FALLBACK.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace(SENTENCE_PIECE_SPACE, " ").encode()

    def said(self, token: int) -> bytes:
        """The bytes that a token adds to an answer: none for a special one."""
        return b"" if token in self.special_ids else self[token]


@lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable bytes are their own, the others are letters from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = sorted(set(range(256)) - set(own))
    return {chr(byte): byte for byte in own} | {chr(0x100 + at): byte for at, byte in enumerate(moved)}
