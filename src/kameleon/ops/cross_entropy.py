"""The output head and the loss together, in chunks: logits of a whole batch never exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.lora_linear import Projection
from kameleon.ops.segments import IGNORE

LOGITS_BYTES = 64 << 20  # of logits held at once; enough rows for a good product


def logits_type(dtype: torch.dtype) -> torch.dtype:
    """What training's logits are in, where products are in `dtype`: fp32, unless torch multiplies, which would round
    them first. In bf16 a logit of 16 is off by up to 0.06, and its probability by 6 %."""
    return torch.float32 if native.can_multiply(dtype) else dtype


def _chunks(rows: int, vocab_size: int, dtype: torch.dtype) -> Iterator[slice]:
    count = -(-rows // chunk_rows(vocab_size, dtype))
    step = -(-rows // max(1, count))  # chunks of one size: a small one at the end would unpack the head for few rows
    return (slice(start, min(start + step, rows)) for start in range(0, rows, max(1, step)))


def chunk_rows(vocab_size: int, dtype: torch.dtype) -> int:
    """How many rows meet the head at a time, where products are in `dtype`."""
    return max(1, LOGITS_BYTES // (logits_type(dtype).itemsize * vocab_size))


def _losses(logits: Tensor, labels: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """The loss of each row, fp64; with `dtype`, softmax − onehot in that type, in the logits' memory."""
    rows, vocab_size = logits.shape
    if native.can_run(logits):
        wanted, losses = dtype or logits.dtype, torch.empty(rows, dtype=torch.float64)
        gradient = int(dtype is not None), native.type_code(wanted)
        native.call("cross_entropy", native.type_code(logits), logits, labels, rows, vocab_size, *gradient, losses)
        return losses, logits.view(wanted)[:, :vocab_size]
    wide, target = logits.float(), labels[:, None]
    total = wide.logsumexp(-1, keepdim=True)
    losses = (total - wide.gather(1, target)).double().flatten()
    wide.sub_(total).exp_().scatter_add_(1, target, torch.full(target.shape, -1.0))
    return losses, wide.to(dtype or logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Projection, labels: Tensor, vocab_size: int) -> Tensor:
        rows = (labels != IGNORE).nonzero().flatten()
        picked, wanted = hidden.index_select(0, rows), labels.index_select(0, rows)
        if len(rows) and not 0 <= int(wanted.min()) <= int(wanted.max()) < vocab_size:
            raise IndexError(f"labels {int(wanted.min())} to {int(wanted.max())} of a vocabulary of {vocab_size}")
        losses = hidden.new_zeros(len(hidden), dtype=torch.float64)
        grad = torch.empty_like(picked) if ctx.needs_input_grad[0] else None
        for chunk in _chunks(len(rows), vocab_size, hidden.dtype):
            logits = head.project(picked[chunk], dtype=logits_type(hidden.dtype))
            losses[rows[chunk]], d_logits = _losses(logits, wanted[chunk], None if grad is None else grad.dtype)
            if grad is not None:
                grad[chunk] = head.project_back(d_logits)
            del logits, d_logits  # before the next ones are made: they are the largest buffers of all
        ctx.shape = hidden.shape
        if grad is not None:
            ctx.save_for_backward(rows, grad)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, grad = ctx.saved_tensors
        d_hidden = grad.new_zeros(ctx.shape)
        scale = grads[0].index_select(0, rows).to(grad.dtype)[:, None]
        return d_hidden.index_copy_(0, rows, grad * scale), None, None, None


def linear_cross_entropy(hidden: Tensor, head: Projection, labels: Tensor, vocab_size: int) -> Tensor:
    """−log softmax(hidden Wᵀ)[label] of each token, [tokens] fp64.

    `hidden` [tokens, size]; `labels` [tokens] int64. Where a label is `IGNORE` the loss is 0, and the row skips the
    head altogether. The gradient for `hidden` is formed in the same pass. Raises IndexError for a label that is no
    token.
    """
    return _LinearCrossEntropy.apply(hidden, head, labels, vocab_size)  # type: ignore[no-any-return]


class TokenScores(NamedTuple):
    """Of each scored token: its log-probability (natural, fp32), the token that the model would have chosen, and the
    one that it would have chosen among `choices` only (the same as `argmax` without choices)."""

    logprob: Tensor
    argmax: Tensor
    choice: Tensor


def token_scores(
    hidden: Tensor, logits_of: Callable[[Tensor], Tensor], labels: Tensor, vocab_size: int, choices: Sequence[int] = ()
) -> TokenScores:
    """log softmax(logits)[label], argmax, and argmax among `choices` for every row. No gradient.

    `hidden` [tokens, size]; `logits_of` makes fp32 logits [rows, vocab_size] of some of its rows; `labels` [tokens]
    int64; `choices` token ids.
    """
    logprob, best, choice = torch.empty(len(labels)), torch.empty_like(labels), torch.empty_like(labels)
    allowed = torch.tensor(choices, dtype=torch.int64)
    for chunk in _chunks(len(labels), vocab_size, torch.float32):
        logits = logits_of(hidden[chunk])
        logprob[chunk] = logits.gather(1, labels[chunk, None]).squeeze(1) - logits.logsumexp(-1)
        best[chunk] = logits.argmax(-1)
        choice[chunk] = allowed[logits[:, allowed].argmax(-1)] if choices else best[chunk]
    return TokenScores(logprob, best, choice)
