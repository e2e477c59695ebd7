"""The floor: only the products with frozen weights, which every step needs."""

from __future__ import annotations

from pathlib import Path

import torch

from kameleon.bench.turns import Job, Turns
from kameleon.model import DecoderConfig, groups, open_weights, read_config

_HEAD_ROWS = 512  # tokens that meet the head at a time: logits of all would take gigabytes, and be no faster


class Floor:
    """Each frozen weight once forward and once for the gradient of its input; the head for every token.

    One layer's weights stand for those of all layers, since the time of a product does not depend on its numbers.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, most_tokens: int) -> None:
        shapes = [(group.out_size, group.in_size) for group in groups(config)]
        head = (config.vocab_size, config.hidden_size)
        self.layers = config.num_layers
        self.weights = [torch.randn(shape).to(dtype) for shape in shapes]
        self.head = torch.randn(head).to(dtype)
        sizes = {size for shape in (*shapes, head[1:]) for size in shape}
        self.rows = {size: torch.randn(most_tokens, size).to(dtype) for size in sizes}
        self.out = {size: torch.empty_like(rows) for size, rows in self.rows.items()}
        self.logits = torch.empty(_HEAD_ROWS, config.vocab_size, dtype=dtype)

    def step(self, tokens: int) -> None:
        """The products of one training step over `tokens` tokens, and nothing else."""
        for layer in range(self.layers):
            for at, weight in enumerate(self.weights):
                out_size, in_size = weight.shape
                torch.mm(self.rows[in_size][:tokens], weight.T, out=self.out[out_size][:tokens])
                if layer or at:  # nothing below the first projection is trained
                    torch.mm(self.rows[out_size][:tokens], weight, out=self.out[in_size][:tokens])
        size = self.head.shape[1]
        for x, dx in zip(
            self.rows[size][:tokens].split(_HEAD_ROWS), self.out[size][:tokens].split(_HEAD_ROWS), strict=True
        ):
            logits = torch.mm(x, self.head.T, out=self.logits[: len(x)])
            torch.mm(logits, self.head, out=dx)


def multiply(job: Job, turns: Turns) -> None:
    """The floor as a contender; it learns nothing, so its loss is 0."""
    path = Path(job.base)
    floor = Floor(read_config(path, open_weights(path)), job.dtype, job.case.rows * job.case.tokens)
    while (rows := turns.next()) is not None:
        floor.step(sum(map(len, rows)))
        turns.done(0.0)
