"""Settings of a training run: what is learned and how, and how the run is watched."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.arguments import check_types
from kameleon.settings.values import MOST_ALPHA, MOST_COUNT, MOST_LAYERS, MOST_RANK, MOST_S, SEEDS, Span, check

DEFAULT_MICRO_BATCH_TOKENS = 1024
_MOST_EPOCHS, _MOST_ROWS_PER_STEP = 10**6, 2**16  # beyond any use


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
            Span("rank", 1, MOST_RANK),
            ("variant", "lora or dora", self.variant in ("lora", "dora")),
            Span("alpha", 0, MOST_ALPHA, open=True),
            Span("layers", 1, MOST_LAYERS, none="all"),
            Span("learning_rate", 0, 1, open=True, none="derived"),
            Span("epochs", 0, _MOST_EPOCHS, open=True, none="derived"),
            Span("rows_per_step", 1, _MOST_ROWS_PER_STEP, none="derived"),
            Span("warmup", 0, 1),
            Span("weight_decay", 0, 1000),
            Span("clip_norm", 0, 10**9, open=True),
            Span("max_row_tokens", 8, MOST_COUNT),
            Span("rows", 1, MOST_COUNT, none="all"),
            Span("minutes", 0, MOST_S // 60, open=True, none="no limit"),
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
            Span("eval_every", 1, MOST_COUNT, none="eight looks"),
            Span("eval_rows", 0, MOST_COUNT),
            Span("patience", 0, MOST_COUNT, zero="never stop early"),
            Span("save_every_s", 0, MOST_S),
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
        check(
            self,
            Span("micro_batch_tokens", 1, MOST_COUNT, none="derived"),
            Span("checkpoint_layers", 0, MOST_LAYERS, none="derived"),
        )

    @property
    def pass_tokens(self) -> int:
        """`micro_batch_tokens`, or its default."""
        return DEFAULT_MICRO_BATCH_TOKENS if self.micro_batch_tokens is None else self.micro_batch_tokens

    @property
    def recomputed_layers(self) -> int:
        """`checkpoint_layers`, or its default."""
        return 0 if self.checkpoint_layers is None else self.checkpoint_layers
