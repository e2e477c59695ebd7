"""Settings of a request: how its tokens are chosen and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kameleon.arguments import check_types
from kameleon.errors import SettingError
from kameleon.settings.values import MOST_COUNT, SEEDS, Span, check
from kameleon.words import came, number_in_words

MOST_BIASES = 1024
"""Tokens with a bias: clients that forbid or prefer words send some hundreds, and each token of an answer reads all."""
MOST_STOPS = 16
"""Stop strings: OpenAI takes 4, and each character of the answer is compared with all."""
MOST_STOP_CHARACTERS = 1000
"""Of one stop string: far more than a word or a line, and an answer holds back as many while they may come."""
MOST_FORM_BYTES = 64_000
"""Of a schema or an expression, schemas of demanded tools together: more than most bases here read as a prompt."""
COMPILE_CPU_S = 1.0
"""CPU time in which a schema or an expression must compile: ten times what one of 500 properties takes."""


class Form(NamedTuple):
    """What an answer must look like: `kind` is "json_schema" or "regex", `text` the schema or the expression."""

    kind: str
    text: str


@dataclass(frozen=True)
class Sampling:
    """One request's wishes. The default is greedy: the most likely token, the same every time."""

    max_tokens: int = 256
    """The most tokens of an answer. 0 is for asking only for the prompt's own probabilities."""
    temperature: float = 0.0
    """0 is greedy; 1 samples from the model's own distribution; higher is wilder."""
    top_p: float = 1.0
    """Sample only from the most likely tokens that together reach this probability (arXiv:1904.09751); 0 is greedy."""
    top_k: int = 0
    """Sample only from this many most likely tokens; 0 means all."""
    min_p: float = 0.0
    """Sample only from tokens at least this likely compared with the most likely one (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and the answer so far become less likely (arXiv:1909.05858); 1 changes nothing."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that the answer has already, as in OpenAI's interface."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the answer has it already, as in OpenAI's interface."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token and what is added to its logit: -100 forbids it, 100 as good as demands it. At most 1024, since
    each token of the answer reads them all; clients send some hundreds."""
    logprobs: int | None = None
    """Report each token's log-probability, and those of this many likely alternatives. None are reported by default."""
    json_schema: str | None = None
    """The answer is JSON that this schema (itself JSON text; "{}" is any) describes; needs the serve extra. At most
    64,000 bytes, 1,000 members in an object and a second of compiling."""
    regex: str | None = None
    """The answer is a text that this regular expression matches as a whole; needs the serve extra. At most 64,000 bytes
    and a second of compiling."""
    seed: int | None = None
    """The same seed gives the same text in any batch. By default each answer has a new one."""
    stop: tuple[str, ...] = ()
    """Stop before any of these strings; the base's own end tokens always stop. At most 16 (OpenAI takes 4) of 1000
    characters each, since each character of the answer is compared with all of them."""

    def __post_init__(self) -> None:
        check_types(self)
        check(
            self,
            Span("max_tokens", 0, MOST_COUNT),
            Span("temperature", 0, 10**6, zero="greedy"),
            Span("top_p", 0, 1),
            Span("top_k", 0, MOST_COUNT, zero="all"),
            Span("min_p", 0, 1),
            Span("repetition_penalty", 0, 10**6, open=True),
            Span("presence_penalty", -2, 2),
            Span("frequency_penalty", -2, 2),
            Span("logprobs", 0, 20, none="no report"),
            ("seed", "a number of 64 bits, or None", self.seed is None or self.seed in SEEDS),
        )
        if self.json_schema is not None and self.regex is not None:
            raise SettingError("json_schema and regex are both given; an answer follows one of them")
        if self.form is not None and (size := len(self.form.text.encode(errors="replace"))) > MOST_FORM_BYTES:
            raise SettingError(f"{self.form.kind} has {size:,} bytes; {MOST_FORM_BYTES:,} is the most")
        self._check_biases()
        self._check_stops()

    def _check_biases(self) -> None:
        if (count := len(self.logit_bias)) > MOST_BIASES:
            raise SettingError(f"logit_bias has {count:,} tokens; at most {MOST_BIASES:,} are taken")
        for token, bias in self.logit_bias:
            if not 0 <= token <= MOST_COUNT or not -100 <= bias <= 100:
                wish = "it must have token numbers with a bias from -100 to 100"
                raise SettingError(f"logit_bias has {came(bias)} for token {number_in_words(token)}; {wish}")

    def _check_stops(self) -> None:
        if (count := len(self.stop)) > MOST_STOPS:
            raise SettingError(f"stop has {count:,} strings; at most {MOST_STOPS} are taken")
        if (longest := max(map(len, self.stop), default=0)) > MOST_STOP_CHARACTERS:
            raise SettingError(f"stop has a string of {longest:,} characters; the most is {MOST_STOP_CHARACTERS:,}")
        if "" in self.stop:
            raise SettingError("an empty stop string would stop everything; leave it out")

    @property
    def form(self) -> Form | None:
        """The form that the answer must have."""
        if self.json_schema is not None:
            return Form("json_schema", self.json_schema)
        return None if self.regex is None else Form("regex", self.regex)
