"""Everything that can be set about a training run and a request: frozen values, each field with its default's reason.

They stand apart from the code that they steer so that help and defaults need no torch, which takes seconds to import.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kameleon.errors import SettingError

MOST_RANK = 4096
"""Of any adapter: beyond any use, and a file that says more is damaged or hostile."""
MOST_ALPHA = MOST_RANK**2
_MOST_EPOCHS, _MOST_ROWS_PER_STEP, _MOST_ROWS = 10**6, 2**16, 10**9  # beyond any use
SEEDS = range(-(2**63), 2**64)
"""What torch takes as a seed."""

ComputeName = Literal["bf16", "fp32"]
"""The types that a base can be multiplied in; `ops.COMPUTE_TYPES` has torch's for each."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """ "6GB", "512 MiB" or a plain number as bytes. Raises SettingError for anything else, and for less than one."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match and match[2].upper() in _UNITS else 0
    if size < 1:
        raise SettingError(f"{text!r} is not an amount of memory; write it as 6GB, 512MB or 4GiB")
    return size


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. The sentence under each field is its help text and the reason for its default."""

    rank: int = 16
    """Width of the side path. 16 has room for what some thousand rows teach; the adapter's file grows with it."""
    variant: str = "lora"
    """lora, or dora (arXiv:2402.09353), which also trains the size of each output, and is slower."""
    alpha: float = 32.0
    """The side path is multiplied by alpha / rank. Leave it: then the best learning rate hardly depends on the rank."""
    targets: str = "all-linear"
    """Projections that get a side path, by name (q_proj,v_proj,…). All of them together learn best."""
    layers: int = 0
    """Adapt only this many upper layers; 0 means all. Fewer are faster: gradients stop at the lowest adapted layer."""
    learning_rate: float = 0.0
    """How far a step of AdamW moves. 0 derives it from the base's width: about ten times that of full fine-tuning."""
    epochs: float | None = None
    """Times that each row is seen. By default 10 times up to 40 rows, fewer times for more, and once from 561 on."""
    rows_per_step: int | None = None
    """Rows that one step learns from. By default 4 below 320 rows, 8 below 1,000, else 16: few rows need small steps,
    so that there are enough steps."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises from 0, so that the first steps do no harm."""
    weight_decay: float = 0.0
    """Pull of A and B towards zero. None by default: the frozen base keeps the model close already."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened, so that one odd row cannot undo the others."""
    max_row_tokens: int = 2048
    """Rows with more tokens are cut, and reported: attention costs the square of a row's length."""
    rows: int | None = None
    """Learn from a random sample of this many rows; the seed decides which. Only these are held in memory (of a JSON
    list all are). By default all rows are learned."""
    minutes: float | None = None
    """Minutes that the run may take, looks included: it makes as many steps as fit, and learning rate and looks follow
    the time. Two such runs differ. By default there is no limit."""
    seed: int = 0
    """Decides the first A and the order of the rows: the same seed gives the same adapter, bit for bit."""

    def __post_init__(self) -> None:
        _check(
            self,
            ("rank", f"from 1 to {MOST_RANK}", 1 <= self.rank <= MOST_RANK),
            ("variant", "lora or dora", self.variant in ("lora", "dora")),
            ("alpha", f"above 0 and at most {MOST_ALPHA}", 0 < self.alpha <= MOST_ALPHA),
            ("layers", "0 (all) or more", self.layers >= 0),
            ("learning_rate", "0 (derived) or more, and below 1", 0 <= self.learning_rate < 1),
            ("epochs", f"above 0 and at most {_MOST_EPOCHS}, or None (derived)", _within(self.epochs, 0, _MOST_EPOCHS)),
            (
                "rows_per_step",
                f"from 1 to {_MOST_ROWS_PER_STEP}, or None (derived)",
                _within(self.rows_per_step, 0, _MOST_ROWS_PER_STEP),
            ),
            ("warmup", "a share from 0 to 1", 0 <= self.warmup <= 1),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("clip_norm", "above 0", self.clip_norm > 0),
            ("max_row_tokens", "at least 8", self.max_row_tokens >= 8),
            ("rows", f"from 1 to {_MOST_ROWS}, or None (all)", _within(self.rows, 0, _MOST_ROWS)),
            ("minutes", "above 0, or None (no limit)", self.minutes is None or 0 < self.minutes < math.inf),
            ("seed", "a number of 64 bits", self.seed in SEEDS),
        )


@dataclass(frozen=True)
class Watch:
    """How a run is watched and kept safe. None of it changes what is learned, except by stopping early."""

    eval_every: int = 0
    """Steps between looks (a look measures the loss on held-out rows). 0 means eight looks in the whole run."""
    eval_rows: int = 64
    """Held-out rows in a look, a sample of all: enough to see the trend, and quick."""
    patience: int = 4
    """Stop when this many looks in a row bring no new best. The best adapter is kept. 0 never stops early."""
    save_every_s: float = 60.0
    """Seconds between checkpoints: a power cut loses at most this much work."""
    micro_batch_tokens: int = 1024
    """Tokens in one pass through the base. More take more memory, and are seldom faster on a CPU."""
    checkpoint_layers: int = 0
    """Layers, from the first trained one, that are computed again instead of stored: less memory, same bits, and each
    takes a third longer. 0 stores all."""

    def __post_init__(self) -> None:
        for name in ("eval_every", "eval_rows", "patience", "save_every_s"):
            if not getattr(self, name) >= 0:  # so that nan is refused too
                raise SettingError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.micro_batch_tokens < 1:
            raise SettingError(f"micro_batch_tokens is {self.micro_batch_tokens}; it must be at least 1")
        if isinstance(self.checkpoint_layers, bool) or self.checkpoint_layers < 0:
            raise SettingError(f"checkpoint_layers is {self.checkpoint_layers}; it must be a number of layers or 0")


@dataclass(frozen=True)
class Sampling:
    """One request's wishes. The default is greedy: the most likely token, the same every time."""

    max_tokens: int = 256
    """The most tokens of an answer. 0 is for asking only for the prompt's own probabilities."""
    temperature: float = 0.0
    """0 is greedy; 1 samples from the model's own distribution; higher is wilder."""
    top_p: float = 1.0
    """Sample only from the most likely tokens that together reach this probability (arXiv:1904.09751)."""
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
    """Pairs of a token and what is added to its logit: -100 forbids it, 100 as good as demands it."""
    logprobs: int | None = None
    """Report each token's log-probability, and those of this many likely alternatives. None are reported by default."""
    json_schema: str | None = None
    """The answer is JSON that this schema (itself JSON text; "{}" is any) describes; needs the serve extra."""
    regex: str | None = None
    """The answer is a text that this regular expression matches as a whole; needs the serve extra."""
    seed: int | None = None
    """The same seed gives the same text in any batch. By default each answer has a new one."""
    stop: tuple[str, ...] = ()
    """Stop before any of these strings; the base's own end tokens always stop."""

    def __post_init__(self) -> None:
        _check(
            self,
            ("max_tokens", "0 or more", self.max_tokens >= 0),
            ("temperature", "0 (greedy) or more", 0 <= self.temperature < math.inf),
            ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
            ("top_k", "0 (all) or more", self.top_k >= 0),
            ("min_p", "a share from 0 to 1", 0 <= self.min_p <= 1),
            ("repetition_penalty", "above 0", 0 < self.repetition_penalty < math.inf),
            ("presence_penalty", "from -2 to 2", -2 <= self.presence_penalty <= 2),
            ("frequency_penalty", "from -2 to 2", -2 <= self.frequency_penalty <= 2),
            (
                "logit_bias",
                "token numbers with a bias from -100 to 100",
                all(token >= 0 and -100 <= bias <= 100 for token, bias in self.logit_bias),
            ),
            ("logprobs", "from 0 to 20, or None", self.logprobs is None or 0 <= self.logprobs <= 20),
            ("seed", "a number of 64 bits, or None", self.seed is None or self.seed in SEEDS),
        )
        if self.json_schema is not None and self.regex is not None:
            raise SettingError("json_schema and regex are both given; an answer follows one of them")
        if "" in self.stop:
            raise SettingError("an empty stop string would stop everything; leave it out")


@dataclass(frozen=True)
class Limits:
    """What a server may use and whom it turns away. 0 in a number of bytes derives it from this machine's memory."""

    kv_cache_bytes: int = 0
    """Memory for the keys and values of running requests and of prompts seen lately; 0 takes an eighth of the free."""
    adapter_bytes: int = 0
    """Memory for resident adapters; those used longest ago leave first. 0 takes an eighth of what is free."""
    max_batch: int = 64
    """Requests that are computed together: more share each reading of the weights, and each waits a little longer."""
    max_queue: int = 256
    """Requests that may wait; one more is told to come back later, since it would wait longer than most clients do."""
    max_request_s: float = 600.0
    """Seconds a request may take, waiting included, before it ends with what it has; 0 sets no limit."""
    default_max_tokens: int = 512
    """Tokens of an answer to a chat request that sets no max_tokens: several paragraphs, and a small base that finds no
    end stops within seconds. A request may ask for more."""
    prefill_chunk_tokens: int = 256
    """Prompt tokens computed in one step beside running answers: what a long prompt puts between two tokens."""

    def __post_init__(self) -> None:
        _check(
            self,
            ("kv_cache_bytes", "0 (derived) or more", self.kv_cache_bytes >= 0),
            ("adapter_bytes", "0 (derived) or more", self.adapter_bytes >= 0),
            ("max_batch", "at least 1", self.max_batch >= 1),
            ("max_queue", "at least 1", self.max_queue >= 1),
            ("max_request_s", "0 (no limit) or more", 0 <= self.max_request_s < math.inf),
            ("default_max_tokens", "at least 1", self.default_max_tokens >= 1),
            ("prefill_chunk_tokens", "at least 16", self.prefill_chunk_tokens >= 16),
        )


@dataclass(frozen=True)
class HttpSettings:
    """Where a server listens, who may come in, and how much one request may bring."""

    host: str = "127.0.0.1"
    """Where to listen: this machine alone. Another address lets others in, and needs --api-key-file."""
    port: int = 8000
    """The port, the one that OpenAI-compatible servers are looked for on; 0 takes a free one and prints it."""
    api_key_file: Path | None = None
    """Demand a key of every request: one a line, optionally with the models it is for (KEY law,medicine)."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins (https://example.org) may call the server from a browser; none by default."""
    max_request_bytes: int = 4_000_000
    """The largest body of a request: more than any base here reads at once."""
    max_upload_bytes: int = 500_000_000
    """The largest upload of an adapter: far more than one of rank 16 on a base of 8 billion weights has."""
    drain_s: float = 30.0
    """Seconds that running answers may go on for after SIGTERM or Ctrl-C, before they are cut."""

    def __post_init__(self) -> None:
        _check(
            self,
            ("port", "from 0 to 65535", 0 <= self.port < 2**16),
            ("max_request_bytes", "at least 1000", self.max_request_bytes >= 1000),
            ("max_upload_bytes", "at least 1000", self.max_upload_bytes >= 1000),
            ("drain_s", "0 or more", 0 <= self.drain_s < math.inf),
        )


def _within(value: float | None, above: float, most: float) -> bool:
    """Whether a value that may be None lies above one number and is at most another."""
    return value is None or above < value <= most


def _check(settings: object, *rules: tuple[str, str, bool]) -> None:
    """Raise one SettingError that names every field whose rule does not hold."""
    faults = [f"{name} is {getattr(settings, name)}; it must be {wish}" for name, wish, holds in rules if not holds]
    if faults:
        raise SettingError("; ".join(faults))
