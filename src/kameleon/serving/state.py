"""What a server knows about itself: plain values, read at any time from any thread."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

# Seconds, from one decoding step of a small base to a client's patience.
EDGES_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass
class Times:
    """A histogram of seconds: `counts[i]` are those up to `EDGES_S[i]` and above the edge before; the last, longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES_S) + 1))
    count: int = 0
    sum_s: float = 0.0

    def note(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect.bisect_left(EDGES_S, seconds)] += 1
        self.count += 1
        self.sum_s += seconds

    def add(self, other: Times) -> None:
        """Count the durations that `other` has counted."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.sum_s += other.sum_s


@dataclass
class Counters:
    """What one adapter (or the plain base) has been asked for by a key and has given, since the engine started."""

    requests: int = 0
    """Submitted and accepted."""
    finished: dict[str, int] = field(default_factory=dict)
    """By `Completion.finish`, and "error"."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: Times = field(default_factory=Times)
    """From submission until computing starts, the loading of a cold adapter included."""
    first_token_s: Times = field(default_factory=Times)
    """From submission to the first token."""
    between_tokens_s: Times = field(default_factory=Times)

    def add(self, other: Counters) -> None:
        """Count what `other` has counted."""
        self.requests += other.requests
        for how, count in other.finished.items():
            self.finished[how] = self.finished.get(how, 0) + count
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.queue_s.add(other.queue_s)
        self.first_token_s.add(other.first_token_s)
        self.between_tokens_s.add(other.between_tokens_s)


@dataclass(frozen=True)
class AdapterState:
    """One version of an adapter that is resident or being loaded. `version` is the shelf's; None for an added value."""

    name: str
    version: int | None
    bytes: int
    pinned: bool
    running: int
    """Requests that hold it now."""
    loading: bool
    current: bool
    """Whether new requests get this version."""


@dataclass(frozen=True)
class EngineState:
    """A snapshot of an engine."""

    queued: int
    running: int
    cache_tokens: int
    """Tokens that the cache has room for."""
    cache_used_tokens: int
    """Of these, held by running requests."""
    cache_found_tokens: int
    """Prompt tokens taken from the cache instead of being computed, since the start."""
    preemptions: int
    """Times that a running request was put off and computed again later: the cache was full, or another client, who had
    less, needed its place."""
    adapters: tuple[AdapterState, ...]
    adapter_bytes: int
    counters: dict[str | None, Counters]
    """By adapter name; None is the plain base."""
    alive: bool
    """Whether the engine takes requests."""
