"""Settings of the comparison of training, apart from the sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kameleon.errors import SettingError
from kameleon.machine import allowed_cores
from kameleon.ops import COMPUTE_TYPES, ComputeType, choose_compute_type
from kameleon.settings import ComputeName

# The most that two losses may differ by rounding: fp32 sums in another order, or bf16's eight bits through all layers.
LOSS_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a comparison. The sentence under each field is its help text and the reason for its default."""

    steps: int = 4
    """Timed steps of each contender: the median of four is steady, since contenders step in turn."""
    compute: ComputeName | None = None
    """The type in which all contenders multiply; by default that of `kameleon train` on this machine."""
    threads: int = 0
    """Threads of each contender; 0 means one for every core that this process may use."""
    rank: int = 16
    """Rank of every contender's side paths, on all linear layers; alpha is twice the rank."""
    learning_rate: float = 1e-4
    """AdamW's learning rate, the same for all: a usual one for LoRA."""
    weight_decay: float = 0.01
    """AdamW's weight decay, the same for all: torch's default, which a loop around PEFT uses."""
    micro_batch_tokens: int = 1024
    """Tokens in a pass of Kameleon: the default of `kameleon train`."""
    loss_steps: int = 20
    """Steps over which the losses of Kameleon, PEFT and, in bf16, PEFT in fp32 are compared, untimed; 0 skips this."""
    loss_rows: int = 2
    """Rows a step of that comparison, of unequal lengths, so that packing is compared with padding."""
    loss_tokens: int = 48
    """Tokens of the longest row of that comparison: small, so that large bases take a minute or two."""
    longest_turn_s: int = 600
    """Seconds of one step after which a contender is left out: a first compilation can take many minutes."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "threads": 0, "rank": 1, "micro_batch_tokens": 1}
        least |= {"loss_steps": 0, "loss_rows": 1, "loss_tokens": 4, "longest_turn_s": 1}
        faults = [
            f"{name} is {getattr(self, name)}; it must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if self.compute not in (None, *COMPUTE_TYPES):
            faults.append(f"compute is {self.compute!r}; it must be {' or '.join(COMPUTE_TYPES)}")
        if not 0 < self.learning_rate < 1:
            faults.append(f"learning_rate is {self.learning_rate}; it must be above 0 and below 1")
        if self.weight_decay < 0:
            faults.append(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if faults:
            raise SettingError("; ".join(faults))

    @property
    def used_threads(self) -> int:
        """The number of threads that `threads` stands for."""
        return self.threads or allowed_cores()

    def compute_type(self) -> ComputeType:
        """The type that all contenders compute in, and why."""
        return choose_compute_type(self.compute and COMPUTE_TYPES[self.compute])
