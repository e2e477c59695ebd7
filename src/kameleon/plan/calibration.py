"""How fast this machine trains a base of this shape: a few seconds with blank weights of the same kinds.

One or a few layers run forward and backward at two token counts, attention on rows of two lengths, the head on a
chunk, AdamW on a vector. The time of a pass is a sum of these. Time does not depend on the values of weights, so the
base itself is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.model import DecoderConfig, Member, build_decoder, groups
from kameleon.model.decoder import Decoder
from kameleon.ops import (
    KINDS,
    AdamW,
    Branch,
    Matrix,
    Segments,
    SidePath,
    StoredMatrix,
    attention,
    chunk_rows,
    give_back_memory,
    keep_memory,
)
from kameleon.plan.counts import trainable_parameters
from kameleon.plan.header import BaseHeader, StoredTensor
from kameleon.plan.workload import Pass, Workload
from kameleon.settings import Execution, Recipe
from kameleon.training import lowest_layer, target_modules
from kameleon.training.losses import token_logprobs
from kameleon.weights import ModuleName, WeightFile
from kameleon.weights.kinds import FLOATS

_SHORT_TOKENS = 32  # of a segment where attention should cost next to nothing
_LONG_TOKENS = 1024  # of one where it should be seen
_MOST_TOKENS, _LEAST_TOKENS = 2048, 128  # of the larger of two passes
_OPERATIONS = 6e10  # of the larger pass, about: a third of a second on two cores with bf16 units
_MOST_LAYERS = 4  # enough that their activations do not fit into the caches, as in a run
_HEAD_NUMBERS = 160 << 20  # of a head; of a larger one a slice is timed
_HEAD_VOCAB = 1 << 17  # with this many rows an unpacked piece is too large to stay in the caches, as in a run
_HEAD_ROWS = 1024
_ADAMW_NUMBERS = 1 << 20
_REPEATS, _ENOUGH_S = 3, 0.6  # times that something is timed, unless it has taken so long already


class Line(NamedTuple):
    """seconds = fixed + each · count."""

    fixed: float
    each: float

    def __call__(self, count: float) -> float:
        return max(0.0, self.fixed + self.each * count)

    @staticmethod
    def through(few: int, at_few: float, many: int, at_many: float) -> Line:
        """Through what was timed at two counts, never falling."""
        each = max(0.0, at_many - at_few) / max(1, many - few)
        return Line(at_many - each * many, each)


@dataclass(frozen=True)
class Rates:
    """What was measured, in seconds: per layer against tokens, per pair of query and key, per chunk of the head."""

    forward: Line
    both: Line
    """Forward and backward."""
    sparing: float
    """With activation checkpointing freed memory is given back after each layer: seconds per token that this adds."""
    pair_forward: float
    pair_both: float
    head_forward: Line
    head_both: Line
    """Against the scored tokens of a chunk: each chunk unpacks the head anew."""
    head_rows: int
    """Scored tokens of a full chunk."""
    parameter: float
    """AdamW, per number."""

    def pass_seconds(self, header: BaseHeader, recipe: Recipe, execution: Execution, one: Pass) -> float:
        """Seconds of one pass of a step, forward and backward."""
        layers, lowest = header.config.num_layers, lowest_layer(header.config, recipe)
        pairs = max(0, one.squares - _SHORT_TOKENS * one.tokens)
        below = self.forward(one.tokens) + self.pair_forward * pairs
        above = self.both(one.tokens) + self.pair_both * pairs
        above += self.sparing * one.tokens if execution.recomputed_layers else 0.0
        again = min(execution.recomputed_layers, layers - lowest) * below
        head = self.head_seconds(self.head_both, one.scored)
        return lowest * below + (layers - lowest) * above + again + head

    def look_seconds(self, header: BaseHeader, one: Pass) -> float:
        """Seconds of one pass over held-out rows: forward alone."""
        pairs = max(0, one.squares - _SHORT_TOKENS * one.tokens)
        layers = header.config.num_layers * (self.forward(one.tokens) + self.pair_forward * pairs)
        return layers + self.head_seconds(self.head_forward, one.scored)

    def head_seconds(self, chunk: Line, scored: int) -> float:
        """Seconds of the head, chunk after chunk; `chunk` is `head_forward` or `head_both`."""
        full, rest = divmod(scored, self.head_rows)
        return full * chunk(self.head_rows) + (chunk(rest) if rest else 0.0)

    def run_seconds(self, header: BaseHeader, recipe: Recipe, execution: Execution, work: Workload) -> float:
        """Seconds of a whole run, looks at the held-out rows included."""
        passes = sum(self.pass_seconds(header, recipe, execution, one) for one in work.passes)
        update = self.parameter * trainable_parameters(header.config, recipe)
        looks = work.looks * sum(self.look_seconds(header, one) for one in work.look)
        return work.steps * (passes / work.sampled_steps + update) + looks


@lru_cache(maxsize=4)
def calibrate(header: BaseHeader, rank: int, variant: str, targets: str, dtype: torch.dtype, pass_tokens: int) -> Rates:
    """Measure this machine, in the compute type that a run would use, at up to `pass_tokens` tokens a pass.

    Kept for the same header (as an object) in the same process, and no longer: another program may run tomorrow.
    """
    size = sum(group.out_size * group.in_size for group in groups(header.config))
    affordable = min(_MOST_TOKENS, max(_LEAST_TOKENS, int(_OPERATIONS / (4 * size))))
    many = max(2 * _SHORT_TOKENS, min(pass_tokens, affordable) // _SHORT_TOKENS * _SHORT_TOKENS)
    few = max(_SHORT_TOKENS, many // 4 // _SHORT_TOKENS * _SHORT_TOKENS)
    layers = min(_MOST_LAYERS, header.config.num_layers, max(1, int(_OPERATIONS / (4 * size * many))))
    blank = _Blank(header, layers)
    decoder = build_decoder(blank.config, blank, dtype=dtype)
    sides = _Sides(blank.config, Recipe(rank=rank, variant=variant, targets=targets))

    def seconds(tokens: int, *, gradient: bool, checkpoint_layers: int = 0) -> float:
        keep_memory(sparing=checkpoint_layers > 0)
        passes = _layer_seconds(decoder, sides, tokens, dtype, gradient=gradient, checkpoint_layers=checkpoint_layers)
        return passes / layers

    def line(*, gradient: bool) -> Line:
        return Line.through(few, seconds(few, gradient=gradient), many, seconds(many, gradient=gradient))

    again = seconds(many, gradient=True, checkpoint_layers=layers)  # first: no kept blocks yet
    forward, both = line(gradient=False), line(gradient=True)
    give_back_memory()  # so that measuring holds less at any time than the least that a run does
    rates = Rates(
        forward,
        both,
        max(0.0, again - both(many) - forward(many)) / many,
        *_pair_seconds(header.config, dtype),
        *_head_seconds(decoder, blank.scale, header.config.vocab_size, dtype),
        chunk_rows(header.config.vocab_size, dtype),
        _adamw_seconds(),
    )
    give_back_memory()
    return rates


def _time(once: Callable[[], object]) -> float:
    """The least of a few times, after one that warms up: other work of the machine can only add to it."""
    once()
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _ENOUGH_S:
        start = time.perf_counter()
        once()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _random(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Random numbers from a generator of its own: the caller's stay as they are."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def _short_segments(tokens: int, length: int = _SHORT_TOKENS) -> Segments:
    count = max(1, tokens // length)
    return Segments((tokens // count,) * count, (0,) * count)


def _layer_seconds(
    decoder: Decoder, sides: _Sides, tokens: int, dtype: torch.dtype, *, gradient: bool, checkpoint_layers: int
) -> float:
    segments = _short_segments(tokens)
    x = _random(segments.tokens, decoder.config.hidden_size, dtype)

    def once() -> None:
        with torch.set_grad_enabled(gradient):
            entering = x.detach().requires_grad_(gradient)
            y = decoder.run_layers(entering, segments, sides, checkpoint_layers=checkpoint_layers)
            if gradient:
                y.backward(x)

    return _time(once)


def _pair_seconds(config: DecoderConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Attention per pair of tokens (a row of n tokens has n²), forward, and forward and backward."""
    heads, kv = config.num_heads, config.num_kv_heads
    tokens = min(_LONG_TOKENS, config.max_sequence_tokens // _SHORT_TOKENS * _SHORT_TOKENS)
    if tokens <= _SHORT_TOKENS:
        return 0.0, 0.0
    qkv = _random(tokens, (heads + 2 * kv) * config.head_dim, dtype)
    pairs = tokens * tokens - tokens * _SHORT_TOKENS

    def seconds(segments: Segments, *, gradient: bool) -> float:
        def once() -> None:
            with torch.set_grad_enabled(gradient):
                y = attention(qkv.detach().requires_grad_(gradient), heads, kv, segments)
                if gradient:
                    y.backward(y.detach())

        return _time(once)

    def slope(*, gradient: bool) -> float:
        whole = Segments((tokens,), (0,))
        return max(0.0, seconds(whole, gradient=gradient) - seconds(_short_segments(tokens), gradient=gradient)) / pairs

    return slope(gradient=False), slope(gradient=True)


def _head_seconds(decoder: Decoder, scale: float, vocab_size: int, dtype: torch.dtype) -> tuple[Line, Line]:
    """The head with the loss against scored tokens, `scale` times as large as the decoder's own slice of it."""
    config, most = decoder.config, min(chunk_rows(vocab_size, dtype), _HEAD_ROWS)
    few = max(1, most // 4)

    def seconds(rows: int, *, gradient: bool) -> float:
        hidden = _random(rows, config.hidden_size, dtype)
        labels = torch.arange(rows) % config.vocab_size

        def once() -> None:
            with torch.set_grad_enabled(gradient):
                x = hidden.detach().requires_grad_(gradient)
                loss = -token_logprobs(decoder, x, labels).sum()
                if gradient:
                    loss.backward()

        return _time(once)

    def line(*, gradient: bool) -> Line:
        return Line.through(
            few, scale * seconds(few, gradient=gradient), most, scale * seconds(most, gradient=gradient)
        )

    return line(gradient=False), line(gradient=True)


def _adamw_seconds() -> float:
    adamw, gradient = AdamW.of(torch.zeros(_ADAMW_NUMBERS), 0.0), torch.full((_ADAMW_NUMBERS,), 1e-3)
    return _time(lambda: adamw.update(gradient, divisor=1.0, clip_norm=1.0, learning_rate=1e-9)) / _ADAMW_NUMBERS


class _Sides:
    """Blank side paths as a recipe would have them, for the decoder."""

    def __init__(self, config: DecoderConfig, recipe: Recipe) -> None:
        self._paths: dict[tuple[int, str], tuple[SidePath | None, ...]] = {}
        wanted = set(target_modules(config, recipe))
        for layer in range(config.num_layers):
            for group in groups(config):
                members = [m for m in group.members if str(ModuleName(layer, m.name)) in wanted]
                a = torch.zeros(len(members) * recipe.rank, group.in_size, requires_grad=True)
                branches = tuple(_branch(m, recipe) for m in members)
                self._paths[layer, group.name] = (SidePath(a, branches) if members else None,)

    def sides(self, layer: int, group: str) -> Sequence[SidePath | None]:
        return self._paths[layer, group]

    def end(self, slot: int, name: str) -> None:
        return None


def _branch(member: Member, recipe: Recipe) -> Branch:
    size = member.size
    b = torch.zeros(size, recipe.rank, requires_grad=True)
    if recipe.variant == "lora":
        return Branch(b, member.start, member.stop, 1.0)
    return Branch(b, member.start, member.stop, 1.0, torch.ones(size, requires_grad=True), torch.full((size,), 2.0))


class _Blank(WeightFile):
    """Zeros, stored as a base of this header stores its usual layer and its head; norms are ones."""

    def __init__(self, header: BaseHeader, layers: int) -> None:
        self.path = Path(header.name)
        self._header, self._usual = header, header.usual_layer()
        config = header.config
        vocab = min(config.vocab_size, max(_HEAD_VOCAB, _HEAD_NUMBERS // config.hidden_size))
        self.config = replace(config, num_layers=layers, vocab_size=vocab)
        self.scale = config.vocab_size / vocab

    def names(self) -> Sequence[str]:
        return list(self._header.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._matrix_info(name).shape

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Of a vector, whose shape the decoder knows."""
        return torch.ones(self.shape(name) if shape is None else shape)

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        stored = self._matrix_info(name)
        if stored.kind in FLOATS or stored.kind not in KINDS:
            return torch.zeros(shape, dtype=FLOATS.get(stored.kind, torch.float32))
        row_bytes = stored.size_bytes // stored.shape[0]
        return StoredMatrix(stored.kind, torch.zeros(shape[0], row_bytes, dtype=torch.uint8), shape[1])

    def _matrix_info(self, name: str) -> StoredTensor:
        place = ModuleName.parse(name)
        return self._header.tensors[name if place.layer < 0 else str(place._replace(layer=self._usual))]

    def _read(self, name: str) -> Tensor:
        return torch.ones(self.shape(name))

    def _files(self) -> list[Path]:
        return []

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        return ()
