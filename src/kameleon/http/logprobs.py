"""Log-probabilities in the two shapes of OpenAI's interface: of chats and of completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from kameleon.generation import ScoredToken

_LEAST = -9999.0  # JSON has no infinity


class TokenTexts:
    """The texts of single tokens, and scores with them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def text(self, token: int) -> str:
        """The text of one token alone."""
        return str(self._tokenizer.decode([token]))

    def chat(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """The shape of chat completions."""
        content = [
            {**self._entry(s.token, s.logprob), "top_logprobs": [self._entry(*other) for other in s.alternatives]}
            for s in scores
        ]
        return {"content": content, "refusal": None}

    def completion(
        self,
        scores: Sequence[ScoredToken],
        offset: int,
        *,
        prompt: Sequence[int] = (),
        prompt_scores: Sequence[ScoredToken] = (),
    ) -> dict[str, Any]:
        """The shape of completions. The text of the first generated token begins at character `offset`.

        `prompt`: tokens to show before them, whose text ends at `offset`. Their first token has no score.
        """
        told: list[ScoredToken | None] = [None, *prompt_scores] if prompt else []
        told += [None] * (len(prompt) - len(told))  # of a prompt whose computing was cut short
        told += scores
        before = [self.text(token) for token in prompt]
        after = [self.text(s.token) for s in scores]
        # A prompt's text may be shorter than its tokens' texts: it lacks the mark of a text's beginning.
        start = offset - sum(map(len, before))
        offsets = [max(0, at) for at in accumulate(map(len, before + after), initial=start)][:-1]
        return {
            "tokens": before + after,
            "token_logprobs": [s and _finite(s.logprob) for s in told],
            "top_logprobs": [s and self._by_text(s.alternatives) for s in told],
            "text_offset": offsets,
        }

    def _by_text(self, alternatives: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Scores by text. Tokens with the same text are parts of characters; the likeliest of them counts."""
        shown: dict[str, float] = {}
        for token, logprob in alternatives:
            shown.setdefault(self.text(token), _finite(logprob))
        return shown

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.text(token)
        # A token may be part of a character, which has no text of its own.
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
