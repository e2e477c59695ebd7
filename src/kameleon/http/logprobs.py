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
        prompt: Sequence[int] = (),
        prompt_scores: Sequence[ScoredToken] = (),
    ) -> dict[str, Any]:
        """The shape of completions; the first generated token stands at character `offset`.

        `prompt` are tokens to be shown before them, whose text ends there; nothing is known about the first of all.
        """
        told: list[ScoredToken | None] = [None, *prompt_scores] if prompt else []
        told += [None] * (len(prompt) - len(told))  # of a prompt that was not read to its end
        told += scores
        before = [self.text(token) for token in prompt]
        after = [self.text(s.token) for s in scores]
        # A prompt's text may lack what its first tokens stand for, such as the mark of a text's beginning.
        start = offset - sum(map(len, before))
        offsets = [max(0, at) for at in accumulate(map(len, before + after), initial=start)][:-1]
        return {
            "tokens": before + after,
            "token_logprobs": [s and _finite(s.logprob) for s in told],
            "top_logprobs": [s and self._by_text(s.alternatives) for s in told],
            "text_offset": offsets,
        }

    def _by_text(self, alternatives: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Of tokens that look the same, parts of characters, the likeliest."""
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
