"""The sequence of one request: its prompt and answer so far, and where their keys and values lie."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from kameleon.errors import AdapterMismatchError, KameleonError
from kameleon.generation.request import Completion, Finish, Piece, Request, ScoredToken
from kameleon.generation.sampling import Choice, Chooser
from kameleon.generation.shares import Owner
from kameleon.generation.text import TextStream


@dataclass(eq=False)
class Sequence:
    """A request that is computed. Keys and values of the first `computed` of its `tokens` are in `pages`."""

    id: int
    """The request's id, which all of its pieces carry."""
    request: Request
    slot: int
    """The adapter's slot in the bank."""
    prefix_key: Hashable
    """Only prompts of equal keys share pages: it differs from adapter to adapter, and may from client to client."""
    chooser: Chooser
    stream: TextStream
    tokens: list[int]
    """Prompt and answer."""
    owner: Owner = ()
    """Who asked; owners share places and prefills."""
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    published: int = 0
    """Leading pages that are in the prefix cache."""
    branch: Hashable = None
    """The prefix cache's node after the last published page."""
    cached: int | None = None
    """Tokens that the prefix cache had when the request was first admitted."""
    read: int = 0
    """Tokens of the answer that have become text."""
    emitted: int | None = None
    """Tokens of the answer already given out; None before the first piece."""
    scores: list[ScoredToken] = field(default_factory=list)
    prompt_scores: list[ScoredToken] = field(default_factory=list)
    """Of the prompt's tokens from the second on."""
    finish: Finish | None = None
    error: KameleonError | None = None
    hidden_sum: torch.Tensor | None = None
    """Sum of final hidden states, [hidden_size] fp64, for a request that asked to embed."""

    def answer_behind(self, count: int) -> list[int]:
        """The generated tokens behind the first `count`; a step that copied all of them would cost more and more."""
        return self.tokens[len(self.request.prompt) + count :]

    @property
    def left(self) -> int:
        """Tokens that have not been through the decoder yet."""
        return len(self.tokens) - self.computed

    @property
    def unscored(self) -> range:
        """Positions whose logits are still wanted, for the scores of the prompt's tokens behind them."""
        return range(len(self.prompt_scores), len(self.request.prompt) - 1 if self.request.score_prompt else 0)

    @property
    def needs_all_hidden(self) -> bool:
        """Whether hidden states of the whole prompt are needed, so that cached pages do not help."""
        return self.request.embed or bool(self.unscored)

    def append(self, choice: Choice, stops: frozenset[int], most_tokens: int) -> None:
        """Add the chosen token, and finish at an end token, at a constraint's end or at a limit."""
        if choice.token in stops:
            self.finish = "stop"
            if choice.score is not None and self.request.score_prompt:
                self.scores.append(choice.score)
            return
        self.tokens.append(choice.token)
        if choice.score is not None:
            self.scores.append(choice.score)
        if choice.ends:
            self.finish = "stop"
            return
        length = len(self.tokens) - len(self.request.prompt)
        if length == self.request.sampling.max_tokens or len(self.tokens) == most_tokens:
            self.finish = "length"

    def add_hidden(self, hidden: torch.Tensor) -> None:
        """Add final hidden states [tokens, hidden_size] to the sum; finish when the prompt is through.

        They are added one after the other, so that the sum does not depend on where a chunk of the prompt ends: that
        depends on the other requests.
        """
        if self.hidden_sum is None:
            self.hidden_sum = torch.zeros(hidden.shape[1], dtype=torch.float64)
        for one in hidden.double():
            self.hidden_sum += one
        if not torch.isfinite(self.hidden_sum).all():
            self.fail_numbers()
        elif not self.left:
            self.finish = "stop"

    def fail(self, error: KameleonError) -> None:
        """End with an error in place of an answer."""
        self.error, self.finish = error, "stop"

    def fail_numbers(self) -> None:
        """End with an error: the numbers of its adapter, or of the base, are not finite."""
        whose = f"adapter {self.request.adapter!r}" if self.request.adapter else "the base"
        self.fail(AdapterMismatchError(f"{whose} turns what is computed into NaN or infinity; it is broken"))

    def next_piece(self) -> Piece | None:
        """Text that became certain and the tokens behind it, the end, or the error; None if there is nothing new."""
        if self.error is not None:
            return Piece(self.id, "", error=self.error)
        text = self.stream.take(self.answer_behind(self.read), finished=self.finish is not None)
        self.read = len(self.tokens) - len(self.request.prompt)
        if self.stream.stopped:
            self.finish = "stop"
        if self.finish is not None:
            return self._piece(text, self._completion(self.finish))
        return self._piece(text) if text else None

    def _completion(self, finish: Finish) -> Completion:
        return Completion(
            self.stream.text,
            tuple(self.answer_behind(0)),
            finish,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached or 0,
            scores=tuple(self.scores),
            embedding=None if self.hidden_sum is None else (self.hidden_sum / len(self.request.prompt)).float(),
            prompt_scores=tuple(self.prompt_scores),
        )

    def _piece(self, text: str, completion: Completion | None = None) -> Piece:
        emitted = self.emitted or 0
        prompt_scores = tuple(self.prompt_scores) if self.emitted is None else ()
        self.emitted = self.read
        fresh = tuple(self.answer_behind(emitted)), tuple(self.scores[emitted:])
        return Piece(self.id, text, completion, *fresh, prompt_scores=prompt_scores)
