"""Log-probabilities in the two shapes that OpenAI's interface has for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from kameleon.generation import ScoredToken

_LEAST = -9999.0  # JSON has no infinity


class TokenTexts:
    """What single tokens look like as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))

    def chat(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """The shape of chat completions."""
        content = [
            {**self._entry(s.token, s.logprob), "top_logprobs": [self._entry(*other) for other in s.alternatives]}
            for s in scores
        ]
        return {"content": content, "refusal": None}

    def completion(self, scores: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
        """The shape of completions; the first token stands at character `offset`."""
        texts = [self.text(s.token) for s in scores]
        offsets = list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else []
        return {
            "tokens": texts,
            "token_logprobs": [_finite(s.logprob) for s in scores],
            "top_logprobs": [{self.text(t): _finite(value) for t, value in s.alternatives} for s in scores],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.text(token)
        # A token may be part of a character, which has no text of its own.
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
