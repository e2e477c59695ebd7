"""A base's vocabulary as the grammars' library takes it. Importing this needs that library."""

from __future__ import annotations

from copy import copy
from functools import lru_cache

from llguidance import LLTokenizer
from tokenizers import normalizers

from kameleon.bases import Base
from kameleon.errors import SettingError
from kameleon.generation.compiling import Spelled, vocabulary
from kameleon.text import TokenBytes
from kameleon.text.token_bytes import SENTENCE_PIECE_SPACE, encoder_of

_SPELLED_BYTES = 512  # of demanded text that become tokens at once: only the first of them is used, each time anew


@lru_cache(maxsize=4)
def vocabulary_of(base: Base) -> tuple[Words, LLTokenizer]:
    """The base's words, and the same as the library takes them; made once, which takes a second for a large base.
    Raises SettingError for a base without an end token."""
    if not base.stop_token_ids:
        raise SettingError("this base has no end token, so an answer of a given form could not end")
    words = Words(base)
    return words, vocabulary(words)


class Words(Spelled):
    """The tokens of a base. Text never becomes a special token here: `<|im_end|>` in a schema is six ordinary tokens,
    and the token of that name ends the answer."""

    def __init__(self, base: Base) -> None:
        own = TokenBytes(base.tokenizer)
        special = own.special_ids | base.stop_token_ids
        # The library knows special tokens by a first byte that no text has.
        tokens = [b"\xff" * (token in special) + own[token] for token in range(base.config.vocab_size)]
        super().__init__(tokens, sorted(special), sorted(base.stop_token_ids))
        self._encoder = copy(encoder_of(base.tokenizer))
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._encoder.encode_special_tokens = True  # as the letters of their names
        if self._spelled(self._encode("a")) == b" a":  # SentencePiece, where a text begins; this one goes on
            self._encoder.normalizer, self._encoder.pre_tokenizer = normalizers.Replace(" ", SENTENCE_PIECE_SPACE), None  # type: ignore[assignment]

    def __call__(self, text: bytes) -> list[int]:
        """The tokens that the model would write the first bytes of `text` with, byte by byte where the tokenizer would
        change them."""
        text = text[:_SPELLED_BYTES].decode(errors="ignore").encode()  # no part of a character
        tokens = self._encode(text.decode())
        return tokens if self._spelled(tokens) == text else super().__call__(text)

    def _encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids

    def _spelled(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)
