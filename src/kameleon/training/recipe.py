"""What a training run does, apart from the data: one frozen value, each field with its default's reason."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.errors import SettingError
from kameleon.model import DecoderConfig, module_shapes


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. The sentence under each field is its help text and the reason for its default."""

    rank: int = 16
    """Width of the side path: room for what some thousand rows teach, in a file of a few megabytes."""
    alpha: float = 32.0
    """The side path is scaled by alpha / rank: kept fixed so that the best learning rate hardly depends on the rank."""
    targets: str = "all-linear"
    """Projections that get a side path, by name (q_proj,v_proj,…): all of them learn best, the MLP's above all."""
    layers: int = 0
    """Adapt only this many upper layers; 0 means all. Fewer are faster: gradients stop at the lowest adapted layer."""
    learning_rate: float = 0.0
    """AdamW's step; 0 derives it from the base's width, about ten times what full fine-tuning would use."""
    epochs: float = 1.0
    """Times that each row is seen: once is enough for many rows, and repeated rows are learned by heart."""
    rows_per_step: int = 16
    """Rows averaged into one step of the optimiser: LoRA learns best from small batches."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises, so that the first gradients do not throw the run off."""
    weight_decay: float = 0.0
    """Pull of A and B towards zero: none, since the frozen base already keeps the model close."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened, so that one odd row cannot undo the others."""
    max_row_tokens: int = 2048
    """Longer rows are cut here, and reported: a row's attention costs the square of its length."""
    seed: int = 0
    """Decides the first A and the order of the rows: the same seed gives the same bits."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}; it must be {wish}"
            for name, wish, holds in (
                ("rank", "at least 1", self.rank >= 1),
                ("alpha", "above 0", self.alpha > 0),
                ("layers", "0 (all) or more", self.layers >= 0),
                ("learning_rate", "0 (derived) or more, and below 1", 0 <= self.learning_rate < 1),
                ("epochs", "above 0", self.epochs > 0),
                ("rows_per_step", "at least 1", self.rows_per_step >= 1),
                ("warmup", "a share from 0 to 1", 0 <= self.warmup <= 1),
                ("weight_decay", "0 or more", self.weight_decay >= 0),
                ("clip_norm", "above 0", self.clip_norm > 0),
                ("max_row_tokens", "at least 8", self.max_row_tokens >= 8),
            )
            if not holds
        ]
        if faults:
            raise SettingError("; ".join(faults))


@dataclass(frozen=True)
class Watch:
    """How a run is watched and kept safe. None of it changes what is learned, except by stopping early."""

    eval_every: int = 0
    """Steps between looks at the held-out rows; 0 means eight looks in the whole run."""
    eval_rows: int = 64
    """Held-out rows per look: enough to see the trend, few enough to cost little."""
    patience: int = 4
    """Stop after so many looks in a row without a new best; the best one is what is kept. 0 never stops early."""
    save_every_s: float = 60.0
    """Seconds between checkpoints: at most this much work is lost to a power cut."""
    micro_batch_tokens: int = 1024
    """Tokens per pass through the base: more rarely goes faster on a CPU, and memory grows with it."""
    checkpoint_layers: bool = False
    """Compute each layer again instead of storing what it made: for very long rows, a third slower, same bits."""

    def __post_init__(self) -> None:
        for name in ("eval_every", "eval_rows", "patience", "save_every_s"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.micro_batch_tokens < 1:
            raise SettingError(f"micro_batch_tokens is {self.micro_batch_tokens}; it must be at least 1")


def derived_learning_rate(config: DecoderConfig) -> float:
    """5e-4 · (2000 / hidden_size)^0.78: ten times a usual rate of full fine-tuning, smaller for wider bases.

    The form is the fit of "LoRA Without Regret" (Schulman et al., 2025); it does not depend on the rank.
    """
    return float(f"{5e-4 * (2000 / config.hidden_size) ** 0.78:.2g}")


def target_modules(config: DecoderConfig, recipe: Recipe) -> list[str]:
    """Names of the projections that get a side path, in layer order. Raises SettingError for a name the base lacks."""
    names = list(module_shapes(config))
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[1] for name in names))
    wanted = kinds if recipe.targets == "all-linear" else [t.strip() for t in recipe.targets.split(",")]
    unknown = [t for t in wanted if t not in kinds]
    if unknown:
        raise SettingError(f"unknown target {', '.join(unknown)}; this base has {', '.join(kinds)}, or all-linear")
    if recipe.layers > config.num_layers:
        raise SettingError(f"layers is {recipe.layers}; this base has {config.num_layers}")
    lowest = config.num_layers - recipe.layers if recipe.layers else 0
    return [n for n in names if n.rsplit(".", 1)[1] in wanted and int(n.split(".")[2]) >= lowest]
