"""Speed of training and generation beside programs that keep every core busy, and on an idle machine.

    .venv/bin/python benchmarks/busy.py [CHECKOUT]

One process trains and generates on SmolLM2. It is timed on an idle machine and beside one busy loop a core, in turn,
eight times. With CHECKOUT (another checkout of Kameleon with its kernels built) a process of that one takes turns too.
Writes benchmarks/busy.json: each speed, and of the ratios of neighbouring turns the median, the lowest and the highest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any

PAIRS = 8
STEPS, ROWS_PER_STEP = 3, 8
ANSWER_TOKENS = 64
HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "examples" / "demo" / "data" / "law" / "test.jsonl"
KINDS = ("train", "answer")
ENVIRONMENT = dict(os.environ)
"""Copied before Kameleon is imported, which sets how long threads spin: the other side must not inherit that."""


def main(other: Path | None) -> None:
    from kameleon.bench.machine import machine

    sides = {"this": Side(HERE.parent)} | ({"other": Side(other)} if other else {})
    speeds: dict[str, dict[str, list[float]]] = {
        kind: {f"{side} {state}": [] for side in sides for state in ("idle", "busy")} for kind in KINDS
    }
    for turn in range(PAIRS):
        order = list(sides) if turn % 2 == 0 else list(reversed(sides))
        for kind in KINDS:
            for side in order:
                speeds[kind][f"{side} idle"].append(sides[side].speed(kind))
            with busy_loops():
                for side in order:
                    speeds[kind][f"{side} busy"].append(sides[side].speed(kind))
            print(kind, {name: round(values[-1], 1) for name, values in speeds[kind].items()}, flush=True)
    ratios = {}
    for kind, of in speeds.items():
        ratios[kind] = {"busy / idle": spread(of["this busy"], of["this idle"])}
        if other:
            ratios[kind]["other's busy / idle"] = spread(of["other busy"], of["other idle"])
            ratios[kind]["idle / other's idle"] = spread(of["this idle"], of["other idle"])
    result = {
        "machine": machine(),
        "threads": sides["this"].threads,
        "compute_type": "bf16",
        "pairs": PAIRS,
        "other_commit": commit_of(other) if other else None,
        "tokens_per_s": speeds,
        "ratios": ratios,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


def spread(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, lowest and highest ratio of neighbouring turns."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": median(found), "lowest": min(found), "highest": max(found)}


def commit_of(checkout: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()


@contextmanager
def busy_loops() -> Iterator[None]:
    """One shell loop a core."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Side:
    """A process of one checkout, which computes on request."""

    def __init__(self, checkout: Path) -> None:
        environment = {**ENVIRONMENT, "PYTHONPATH": str(checkout / "src")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.threads = int(self._line())

    def speed(self, kind: str) -> float:
        """Tokens per second of one turn."""
        told = self._pipe(self._process.stdin)
        told.write(kind + "\n")
        told.flush()
        return float(self._line())

    def _line(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            sys.exit("a side ended; its message stands above")
        return line

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def side() -> None:
    """Answer each line of standard input ("train" or "answer") with the tokens per second of a turn."""
    import kameleon  # before torch, which reads the spins that Kameleon sets  # isort: skip
    import torch

    from kameleon import Recipe, Sampling
    from kameleon.adapters import Card
    from kameleon.adapters.resident import Bank
    from kameleon.data import pack
    from kameleon.training.step import train_step
    from kameleon.training.trainee import Trainee, fresh_adapter

    loaded = kameleon.load("smollm2", dtype=torch.bfloat16)
    base, recipe = loaded.base, Recipe()
    bank = Bank(base)
    bank.add(fresh_adapter(base, "busy", recipe, Card(base_id=base.name, base_fingerprint=base.fingerprint)))
    trainee = Trainee(bank, "busy", recipe)
    examples = loaded.read(ROWS).examples[: STEPS * ROWS_PER_STEP]
    steps = [pack(examples[at : at + ROWS_PER_STEP], 1024, adapter=0) for at in range(0, len(examples), ROWS_PER_STEP)]
    forbidden = tuple((token, -100.0) for token in base.stop_token_ids)
    sampling = Sampling(max_tokens=ANSWER_TOKENS, logit_bias=forbidden)

    def train() -> int:
        return sum(train_step(base, bank, [trainee], one, learning_rates=[1e-4])[0].tokens for one in steps)

    def answer() -> int:
        return sum(len(one.tokens) for one in loaded.generate(["Tell me about foxes."], sampling=sampling))

    turns: dict[str, Any] = {"train": train, "answer": answer}
    for turn in turns.values():
        turn()  # to warm up
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        tokens = turns[line.strip()]()
        print(tokens / (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--side"]:
        side()
    else:
        main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None)
