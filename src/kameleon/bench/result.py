"""Measurements as one JSON document, from which scripts and the README's table are fed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from kameleon.bench.cases import Case
from kameleon.bench.contenders import FLOOR, KAMELEON, PEFT, PEFT_COMPILED, PEFT_FP32, TRL, find_contenders
from kameleon.bench.machine import machine
from kameleon.bench.measure import Event, Measured, measure_case
from kameleon.bench.settings import LOSS_LIMITS, BenchSettings
from kameleon.bench.turns import Took

_KEPT = ("seconds", "tokens", "loss")  # of every timed step


def run_bench(
    cases: Sequence[Case],
    contenders: str,
    settings: BenchSettings,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    on_case: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Measure every case and return the whole document; after each case `on_case` gets the document so far.

    Raises SettingError for an unknown contender, ContenderError, and the errors of `load_base`.
    """
    wanted = find_contenders(contenders)
    skipped = {one.name: f"skipped: {why}" for one in wanted if (why := one.missing())}
    compute = settings.compute_type()
    document: dict[str, Any] = {
        "machine": machine(),
        "threads": settings.used_threads,
        "dtype": str(compute.dtype).removeprefix("torch."),
        "compute": compute.reason,
        "settings": asdict(settings),
        "skipped": skipped,
        "cases": {},
    }
    for case in cases:
        present = [one for one in wanted if one.name not in skipped and one.packed in (None, case.packed)]
        measured = measure_case(case, present, settings, on_event)
        limit = LOSS_LIMITS[compute.dtype]
        document["cases"][case.name] = {**case.to_json(), **case_document(measured, settings, limit)}
        on_case(document)
    return document


def case_document(measured: Measured, settings: BenchSettings, loss_limit: float) -> dict[str, Any]:
    """The numbers of one case; null for contenders that did not take part."""
    rates = {name: _tokens_per_s(steps) for name, steps in _all_steps(measured).items()}
    peaks = {name: max(took.peak_bytes for took in steps) for name, steps in _all_steps(measured).items()}
    floor = _ratio(measured, FLOOR)
    return {
        "tokens_per_s": rates[KAMELEON],
        "vs_peft": _ratio(measured, PEFT),
        "vs_peft_compiled": _ratio(measured, PEFT_COMPILED),
        "vs_trl": _ratio(measured, TRL),
        "gemm_floor_multiple": 1 / floor if floor else None,
        "peak_bytes": peaks[KAMELEON],
        "peft_peak_bytes": peaks.get(PEFT),
        "loss_gap": loss_gap(measured.losses),
        "loss_gap_to_fp32": {name: loss_gap(measured.losses, name=name, other=PEFT_FP32) for name in (KAMELEON, PEFT)},
        "loss": {
            "rows": settings.loss_rows,
            "tokens": settings.loss_tokens,
            "steps": settings.loss_steps,
            "limit": loss_limit,
            **measured.losses,
        },
        "stopped": measured.stopped,
        "contenders": {
            name: {"tokens_per_s": rates[name], "kameleon_is": _ratio(measured, name), "peak_bytes": peaks[name]}
            for name in rates
        },
        "groups": [
            {name: {key: [getattr(t, key) for t in took] for key in _KEPT} for name, took in group.items()}
            for group in measured.groups
        ],
    }


def losses_agree(document: Mapping[str, Any]) -> bool:
    """Whether the losses of each case differ by no more than rounding explains."""
    gaps = [(case["loss_gap"], case["loss"]["limit"]) for case in document["cases"].values()]
    return all(gap is None or gap <= limit for gap, limit in gaps)


def loss_gap(losses: Mapping[str, Sequence[float]], *, name: str = KAMELEON, other: str = PEFT) -> float | None:
    """The largest |ours − theirs| / theirs over all steps. NaN if a loss is NaN, None if nothing was compared."""
    pairs = zip(losses.get(name, ()), losses.get(other, ()), strict=False)
    gaps = (abs(ours - theirs) / theirs for ours, theirs in pairs)
    return max(gaps, key=lambda gap: (math.isnan(gap), gap), default=None)  # max alone would skip NaN


def _tokens_per_s(steps: Sequence[Took]) -> float:
    return 1 / median(took.seconds / took.tokens for took in steps)


def _all_steps(measured: Measured) -> dict[str, list[Took]]:
    steps: dict[str, list[Took]] = {}
    for group in measured.groups:
        for name, took in group.items():
            if took:
                steps.setdefault(name, []).extend(took)
    return steps


def _ratio(measured: Measured, name: str) -> float | None:
    """Kameleon's speed divided by that of `name`, measured in the group in which both stepped, if there is one."""
    for group in (*measured.groups, _all_steps(measured)):
        if group.get(name) and group.get(KAMELEON):
            return _tokens_per_s(group[KAMELEON]) / _tokens_per_s(group[name])
    return None
