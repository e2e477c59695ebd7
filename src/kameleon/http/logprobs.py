"""Log-probabilities in the two shapes of OpenAI's interface: of chats and of completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from kameleon.generation import ScoredToken
from kameleon.text import TokenBytes

_LEAST = -9999.0  # JSON has no infinity


class Offsets:
    """Where the tokens of a text begin, in characters, told one by one; the text begins at `start`.

    A token that begins within a character has that character's place.
    """

    def __init__(self, start: int) -> None:
        self._at, self._begun = start, b""  # characters so far, and the bytes of one that is not whole

    def take(self, token: bytes) -> int:
        """The place of the next token."""
        if self._begun and not _continues(self._begun, token):
            self._at, self._begun = self._at + 1, b""  # a replacement character stands for it
        place = self._at
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at += len(decoder.decode(self._begun + token))
        self._begun = decoder.getstate()[0]
        return place


class TokenTexts:
    """The texts of single tokens, and scores with them."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._bytes = token_bytes

    def text(self, token: int) -> str:
        r"""The text of one token alone; one that splits a character is written as OpenAI does: `bytes:\xf0\x9f`."""
        try:
            return self._bytes[token].decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._bytes[token])

    def joined(self, tokens: Iterable[int]) -> str:
        """The text of tokens together, with the names of special ones."""
        return b"".join(self._bytes[token] for token in tokens).decode(errors="replace")

    def chat(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """The shape of chat completions. The `bytes` of all entries are those of the answer's text."""
        content = [
            {**self._entry(s.token, s.logprob), "top_logprobs": [self._entry(*other) for other in s.alternatives]}
            for s in scores
        ]
        return {"content": content, "refusal": None}

    def completion(
        self,
        scores: Sequence[ScoredToken],
        offsets: Offsets,
        *,
        prompt: Sequence[int] = (),
        prompt_scores: Sequence[ScoredToken] = (),
        prompt_characters: int = 0,
    ) -> dict[str, Any]:
        """The shape of completions. `offsets` counts on behind the tokens that were told before.

        `prompt`: tokens to show before them, whose text has `prompt_characters`. Their first token has no score.
        """
        told: list[ScoredToken | None] = [None, *prompt_scores] if prompt else []
        told += [None] * (len(prompt) - len(told))  # of a prompt whose computing was cut short
        told += scores
        # A prompt's text may be shorter than its tokens' texts: it lacks the mark of a text's beginning.
        before = Offsets(prompt_characters - len(self.joined(prompt)))
        places = [max(0, before.take(self._bytes[token])) for token in prompt]
        places += [offsets.take(self._bytes.said(s.token)) for s in scores]
        return {
            "tokens": [self.text(token) for token in (*prompt, *(s.token for s in scores))],
            "token_logprobs": [s and _finite(s.logprob) for s in told],
            "top_logprobs": [s and self._by_text(s.alternatives) for s in told],
            "text_offset": places,
        }

    def _by_text(self, alternatives: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Scores by text. Of tokens with the same text the likeliest counts."""
        shown: dict[str, float] = {}
        for token, logprob in alternatives:
            shown.setdefault(self.text(token), _finite(logprob))
        return shown

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.text(token), "logprob": _finite(logprob), "bytes": list(self._bytes.said(token))}


def _continues(begun: bytes, token: bytes) -> bool:
    """Whether the first byte of `token` goes on with the character that `begun` begins."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begun + token[:1])
    except UnicodeDecodeError:
        return False
    return True


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
