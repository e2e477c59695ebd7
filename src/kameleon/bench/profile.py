"""The time of a Kameleon step by operator."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from kameleon.adapters import Card
from kameleon.adapters.resident import Bank
from kameleon.bases import load_base
from kameleon.bench.bases import base_path
from kameleon.bench.cases import Case
from kameleon.bench.machine import machine
from kameleon.bench.ours import pack_rows, recipe_of
from kameleon.bench.settings import BenchSettings
from kameleon.training.step import train_step
from kameleon.training.trainee import Trainee, fresh_adapter

_STEP = "kameleon step"
_REST = "Python between operators"
_SMALLEST_SHARE = 0.005  # operators with a smaller share are shown as one
_BACKWARD = "autograd::engine::evaluate_function: "
_KERNEL = "kameleon::"  # the prefix of the kernels' names in a profile
_PRODUCTS = {
    "kameleon::gemm",
    "aten::mm",
    "aten::addmm",
    "aten::addmm_",
    "aten::bmm",
    "aten::baddbmm",
    "mkldnn::_linear_pointwise",
}
# Autograd functions and torch's operators in words; others are shown under their own names.
_WORDS = {
    "_LoraLinear": "projections and side paths",
    "_LinearCrossEntropy": "head and loss",
    "_Apply": "norms and gates",
    "_Rope": "rotary embedding",
    "_Attention": "attention",
    "kameleon::rms_norm": "RMS norm",
    "kameleon::gated": "gated activation",
    "kameleon::rope": "rotary embedding",
    "kameleon::attention": "attention",
    "kameleon::cross_entropy": "softmax and loss",
    "kameleon::adamw": "AdamW",
    "aten::scaled_dot_product_attention": "attention",
    _STEP: _REST,
}


@dataclass(frozen=True)
class OperatorTime:
    """Seconds of one operator in a step; `products_s` is the part that matrix products take."""

    operator: str
    forward_s: float
    backward_s: float
    products_s: float
    share: float


def profile_steps(case: Case, settings: BenchSettings) -> dict[str, Any]:
    """Profile Kameleon's steps of a case, after an untimed one. Times are self CPU times, so they add up to a step.

    Raises the errors of `load_base`.
    """
    torch.set_num_threads(settings.used_threads)
    compute = settings.compute_type()
    base = load_base(str(base_path(case.base)), compute.dtype)
    bank, recipe = Bank(base), recipe_of(settings)
    card = Card.of_base(base)
    slot = bank.add(fresh_adapter(base, "profiled", recipe, card))
    trainee = Trainee(bank, "profiled", recipe)
    layers, rates = base.config.num_layers if case.checkpoint else 0, [settings.learning_rate]

    def step(number: int) -> float:
        rows = case.batch(number, base.config.vocab_size)
        passes = pack_rows(rows, slot=slot, max_tokens=settings.micro_batch_tokens)
        started = time.perf_counter()
        with record_function(_STEP):
            train_step(base, bank, [trainee], passes, learning_rates=rates, checkpoint_layers=layers)
        return time.perf_counter() - started

    step(0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds = sum(step(number + 1) for number in range(settings.steps)) / settings.steps
    return {
        "machine": machine(),
        "threads": settings.used_threads,
        "dtype": str(compute.dtype).removeprefix("torch."),
        "compute": compute.reason,
        "case": case.name,
        **case.to_json(),
        "step_s": seconds,
        "operators": [asdict(one) for one in operator_times(profiler.events(), settings.steps)],
    }


def operator_times(events: Any, steps: int) -> list[OperatorTime]:
    """Self CPU times of a profile, by the operator that an event belongs to; the longest first."""
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    products: dict[str, float] = defaultdict(float)
    for event in events:
        owner, is_backward = _owner(event)
        seconds = event.self_cpu_time_total / 1e6 / steps
        (backward if is_backward else forward)[owner] += seconds
        if event.name in _PRODUCTS:
            products[owner] += seconds
    total = sum(forward.values()) + sum(backward.values())
    gathered: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for owner in {*forward, *backward}:
        large = forward[owner] + backward[owner] >= _SMALLEST_SHARE * total
        for at, part in enumerate((forward, backward, products)):
            gathered[owner if large else "everything else"][at] += part[owner]
    times = [OperatorTime(name, *parts, share=(parts[0] + parts[1]) / total) for name, parts in gathered.items()]
    return sorted(times, key=lambda one: -one.share)


def _owner(event: Any) -> tuple[str, bool]:
    """The name of the operator that an event belongs to, and whether it runs in the backward pass.

    A kernel is an operator of its own, unless it is a matrix product: products and torch's operators belong to the
    outermost operator.
    """
    outermost = event
    while outermost.cpu_parent is not None and outermost.cpu_parent.name != _STEP:
        outermost = outermost.cpu_parent
    name = outermost.name
    is_backward = name.startswith(_BACKWARD)
    if is_backward:
        name = re.sub(r"Backward\d*$", "", name.removeprefix(_BACKWARD))
    if event.name.startswith(_KERNEL) and event.name not in _PRODUCTS:
        name = event.name.removesuffix("_back")
    return _WORDS.get(name) or _plain(name), is_backward


def _plain(name: str) -> str:
    """`_FlashAttention` → "flash attention", `aten::add` → "add"."""
    short = name.split("::")[-1].strip("_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", short).lower()
