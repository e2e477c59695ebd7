"""Settings of the comparison of serving, and the mixes of adapters."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kameleon.errors import SettingError
from kameleon.machine import allowed_cores
from kameleon.settings import ComputeName

MIXES = {"base": 0, "1": 1, "4": 4, "10": 10, "16": 16, "1000": 1000}
"""Mixes by name: the number of adapters over which the streams are spread."""
POWER_LAW = "1000"
"""In this mix each stream draws its adapter, the i-th with a probability proportional to 1 / i."""
OWN_MIXES = ("10", POWER_LAW)
"""Kameleon beside itself: a thousand adapters that are loaded and evicted, against ten that stay in memory."""


@dataclass(frozen=True)
class ServeBenchSettings:
    """Settings of a comparison. The sentence under each field is its help text and the reason for its default."""

    mixes: str = "base,1,4,16"
    """How many adapters the streams are spread over, by commas: base (none), 1, 4, 10, 16; 1000 by a power law."""
    streams: str = "1,16"
    """Streams at the same time, by commas: one person, and sixteen who share the server."""
    rounds: int = 2
    """Times that everything is measured, contenders in turn; the median counts."""
    tokens: int = 64
    """Tokens of each answer: long enough that decoding outweighs the prompt."""
    prompt_tokens: int = 16
    """Tokens of each prompt where decoding is measured."""
    prefill_tokens: int = 512
    """Tokens of the prompt where reading a prompt is measured."""
    rank: int = 16
    """Rank of every adapter, on all linear layers."""
    threads: int = 0
    """Threads of each contender; 0 means one for every core that this process may use."""
    compute: ComputeName | None = None
    """The type in which Kameleon multiplies, as in `kameleon serve`; others have their own, PEFT and vLLM bf16."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}; it must be at least {least}"
            for name, least in (("rounds", 1), ("tokens", 2), ("prompt_tokens", 1), ("prefill_tokens", 1), ("rank", 1))
            if getattr(self, name) < least
        ]
        unknown = [mix for mix in self.mix_names if mix not in MIXES]
        if unknown:
            faults.append(f"mixes has {unknown[0]!r}; there are {', '.join(MIXES)}")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in self.streams.split(",")):
            faults.append(f"streams is {self.streams!r}; it must be numbers by commas, as 1,4,16")
        if faults:
            raise SettingError("; ".join(faults))

    @property
    def mix_names(self) -> list[str]:
        """The mixes to measure, by name."""
        return [mix.strip() for mix in self.mixes.split(",")]

    @property
    def stream_counts(self) -> list[int]:
        """Numbers of streams that run at the same time."""
        return [int(part) for part in self.streams.split(",")]

    @property
    def used_threads(self) -> int:
        """Threads of each contender: those given, or one for each core of this process."""
        return self.threads or allowed_cores()

    @property
    def adapters(self) -> int:
        """Adapters on disk: those of the largest mix, and at least five, for prefill and switching."""
        return max(5, *(MIXES[mix] for mix in self.mix_names))

    def can_measure(self, mix: str, streams: int) -> bool:
        """Whether there are enough streams for the mix: with fewer, some of its adapters would not be used."""
        return mix == POWER_LAW or MIXES[mix] <= streams

    def waves(self, mix: str) -> int:
        """Loads in succession. Loading and evicting adapters shows over many requests only, so the mixes that are
        compared for it get several."""
        return 8 if mix in OWN_MIXES else 1


def spread(mix: str, streams: int, draws: random.Random) -> list[int | None]:
    """The adapter of each stream; None is the base."""
    count = MIXES[mix]
    if mix == POWER_LAW:
        return list(draws.choices(range(count), [1 / at for at in range(1, count + 1)], k=streams))
    return [i % count if count else None for i in range(streams)]
