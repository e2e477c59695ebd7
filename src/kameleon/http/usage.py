"""The label of every generated answer (id, model, time), and its counts of tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kameleon.generation import Completion


@dataclass(frozen=True)
class Label:
    """The head of an answer and of each of its events."""

    prefix: str
    kind: str
    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        """The fields that come before the choices."""
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": self.kind + (".chunk" if chunk else ""),
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage_of(completions: Sequence[Completion], answers: int) -> dict[str, Any]:
    """Counts of tokens over all completions. Each prompt has `answers` completions in a row, and counts once."""
    prompts = completions[::answers]
    prompt_tokens = sum(one.prompt_tokens for one in prompts)
    completion_tokens = sum(len(one.tokens) for one in completions)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in prompts)},
    }
