"""Rows to tokens, each marked as trained or not."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.data.rows import Row
from kameleon.errors import DataError
from kameleon.text import ChatTemplate

# All rows share one object for each token of the vocabulary: an object of its own would take 28 bytes.
_TOKENS: dict[int, int] = {}


@dataclass(frozen=True)
class Example:
    """One row as tokens. `trained[i]` says whether token i is learned; `row` is its number in the file."""

    row: int
    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    cut_tokens: int = 0
    """Tokens that did not fit, where trained ones are among them."""

    @property
    def trained_tokens(self) -> int:
        """How many tokens are learned; a first token, which nothing precedes, cannot be."""
        return sum(self.trained[1:])


def encode_row(row: Row, template: ChatTemplate, raw: bool = False, max_tokens: int = 2048) -> Example:
    """Through the base's chat template, learning the assistant's tokens and the one that ends its turn.

    With `raw`, a prompt and its completion as they are, learning the completion and the end token. Plain text is
    learned whole. Raises DataError.
    """
    if row.text is not None:
        learned = (*template.encode_text(row.text), _end_token(template))
        tokens = (*template.opening, *learned)
        trained = (False,) * len(template.opening) + (True,) * len(learned)
    elif raw:
        if row.prompt is None or row.completion is None:
            raise DataError("--raw (in Python raw=True) needs prompt and completion as text; these are messages")
        prompt = (*template.opening, *template.encode_text(row.prompt))
        answer = (*template.encode_after(row.prompt, row.completion), _end_token(template))
        tokens, trained = (*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer)
    else:
        tokens, trained = template.encode_conversation(row.messages, row.tools, first_learned=row.first_learned)
    cut = len(tokens) - max_tokens if any(trained[max_tokens:]) else 0
    kept = tuple(_TOKENS.setdefault(token, token) for token in tokens[:max_tokens])
    return Example(row.number, kept, trained[:max_tokens], cut)


def _end_token(template: ChatTemplate) -> int:
    end = template.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError("this base's tokenizer has no end token, so the adapter could not learn to stop")
    return end
