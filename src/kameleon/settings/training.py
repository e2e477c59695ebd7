"""Settings of a training run: what is learned and how, and how the run is watched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kameleon.arguments import check_types
from kameleon.settings.values import MOST_ALPHA, MOST_RANK, SEEDS, check, within

DEFAULT_MICRO_BATCH_TOKENS = 1024
_MOST_EPOCHS, _MOST_ROWS_PER_STEP, _MOST_ROWS = 10**6, 2**16, 10**9  # beyond any use


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
    layers: int | None = None
    """Adapt only this many upper layers, by default all. Fewer are faster: gradients stop at the lowest adapted layer.
    """
    learning_rate: float | None = None
    """How far a step of AdamW moves. By default it follows from the base's width: about ten times that of full
    fine-tuning."""
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
        check_types(self)
        check(
            self,
            ("rank", f"from 1 to {MOST_RANK}", 1 <= self.rank <= MOST_RANK),
            ("variant", "lora or dora", self.variant in ("lora", "dora")),
            ("alpha", f"above 0 and at most {MOST_ALPHA}", 0 < self.alpha <= MOST_ALPHA),
            ("layers", "at least 1, or None (all)", self.layers is None or self.layers >= 1),
            (
                "learning_rate",
                "above 0 and below 1, or None (derived)",
                self.learning_rate is None or 0 < self.learning_rate < 1,
            ),
            ("epochs", f"above 0 and at most {_MOST_EPOCHS}, or None (derived)", within(self.epochs, 0, _MOST_EPOCHS)),
            (
                "rows_per_step",
                f"from 1 to {_MOST_ROWS_PER_STEP}, or None (derived)",
                within(self.rows_per_step, 0, _MOST_ROWS_PER_STEP),
            ),
            ("warmup", "a share from 0 to 1", 0 <= self.warmup <= 1),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("clip_norm", "above 0", self.clip_norm > 0),
            ("max_row_tokens", "at least 8", self.max_row_tokens >= 8),
            ("rows", f"from 1 to {_MOST_ROWS}, or None (all)", within(self.rows, 0, _MOST_ROWS)),
            ("minutes", "above 0, or None (no limit)", self.minutes is None or 0 < self.minutes < math.inf),
            ("seed", "a number of 64 bits", self.seed in SEEDS),
        )


@dataclass(frozen=True)
class Watch:
    """How a run is watched and kept safe. None of it changes what is learned, except by stopping early."""

    eval_every: int | None = None
    """Steps between looks (a look measures the loss on held-out rows). By default there are eight looks in a run."""
    eval_rows: int = 64
    """Held-out rows in a look, a sample of all: enough to see the trend, and quick."""
    patience: int = 4
    """Stop when this many looks in a row bring no new best. The best adapter is kept. 0 never stops early."""
    save_every_s: float = 60.0
    """Seconds between checkpoints: a power cut loses at most this much work."""

    def __post_init__(self) -> None:
        check_types(self)
        check(
            self,
            ("eval_every", "at least 1, or None (eight looks)", self.eval_every is None or self.eval_every >= 1),
            ("eval_rows", "0 or more", self.eval_rows >= 0),
            ("patience", "0 (never stop early) or more", self.patience >= 0),
            ("save_every_s", "0 or more", self.save_every_s >= 0),
        )


@dataclass(frozen=True)
class Execution:
    """How a run is computed. None of it changes what is learned, apart from the rounding of sums."""

    micro_batch_tokens: int | None = None
    """Tokens in one pass through the base. By default 1,024, and fewer where a memory budget asks for it. More take
    more memory, and are seldom faster on a CPU."""
    checkpoint_layers: int | None = None
    """Layers, from the first trained one, that are recomputed in the backward pass instead of stored: less memory, same
    bits, and each takes a third longer. By default 0, and more where a memory budget asks for it."""

    def __post_init__(self) -> None:
        check_types(self)
        tokens, layers = self.micro_batch_tokens, self.checkpoint_layers
        check(
            self,
            ("micro_batch_tokens", "at least 1, or None (derived)", tokens is None or tokens >= 1),
            (
                "checkpoint_layers",
                "a number of layers, or None (derived)",
                layers is None or (not isinstance(layers, bool) and layers >= 0),
            ),
        )

    @property
    def pass_tokens(self) -> int:
        """`micro_batch_tokens`, or its default."""
        return DEFAULT_MICRO_BATCH_TOKENS if self.micro_batch_tokens is None else self.micro_batch_tokens

    @property
    def recomputed_layers(self) -> int:
        """`checkpoint_layers`, or its default."""
        return 0 if self.checkpoint_layers is None else self.checkpoint_layers
