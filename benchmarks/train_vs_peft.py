"""How many tokens a second does Kameleon train, beside PEFT on the same model, and beside the bare multiplications?

    .venv/bin/python benchmarks/train_vs_peft.py [--dtype fp32|bf16] [--steps 4] [--rows 4] [--tokens 512]

SmolLM2, rank 16 on all linear layers, every token trained, the same tokens for both. Each contender lives in a process
of its own (so that peaks of memory are its own) and they step in turn (so that whatever the machine does meets all
alike). Without --dtype, what this machine multiplies faster is used for both. The result, with versions and machine,
goes to benchmarks/train_vs_peft.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

RANK, ALPHA, LEARNING_RATE = 16, 32, 1e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Job:
    """What is measured: rows × tokens a step, in one type."""

    dtype: torch.dtype
    rows: int
    tokens: int

    def batch(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 49152, (self.rows, self.tokens), generator=generator)


def kameleon(job: Job) -> Callable[[], float]:
    """One step of Kameleon; returns its loss."""
    from kameleon import Recipe
    from kameleon.adapters import Bank, Card
    from kameleon.data import Example, pack
    from kameleon.model import load_base
    from kameleon.training.step import Trainee, fresh_adapter, train_step

    base = load_base("smollm2", job.dtype)
    bank, recipe = Bank(base), Recipe(rank=RANK, alpha=ALPHA, clip_norm=1e9, weight_decay=0.01)
    bank.add(fresh_adapter(base, "bench", recipe, Card(base_id=base.name, base_fingerprint=base.fingerprint)))
    trainee = Trainee(bank.resident("bench"), recipe)
    rows = [Example(i, tuple(row.tolist()), (True,) * job.tokens) for i, row in enumerate(job.batch())]
    packs = pack(rows, job.rows * job.tokens, 0)
    return lambda: train_step(base, bank, trainee, packs, LEARNING_RATE).loss


def peft(job: Job) -> Callable[[], float]:
    """One step of transformers + PEFT, eager, as its documentation has it; returns its loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GgufConfig

    from kameleon.model import locate

    path = locate("smollm2").path
    gguf = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)} if path.is_file() else {}
    model = AutoModelForCausalLM.from_pretrained(path.parent if path.is_file() else path, dtype=job.dtype, **gguf)
    model.config.quantization_config = None
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    batch = job.batch()

    def step() -> float:
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def gemm_floor(job: Job) -> Callable[[], float]:
    """The bare products of a step: each frozen weight forward, and once more for the gradient of its input."""
    shapes = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
    weights = [torch.randn(shape).to(job.dtype) for shape in shapes]
    head = torch.randn(49152, 576).to(job.dtype)
    count = job.rows * job.tokens
    inputs = {size: torch.randn(count, size).to(job.dtype) for size in (576, 1536)}
    outputs = {size: torch.randn(count, size).to(job.dtype) for size in (960, 576, 3072)}

    def step() -> float:
        for _ in range(30):
            for weight in weights:
                torch.mm(inputs[weight.shape[1]], weight.T)
                torch.mm(outputs[weight.shape[0]], weight)
        for chunk in inputs[576].split(170):
            torch.mm(torch.mm(chunk, head.T), head)
        return 0.0

    return step


CONTENDERS = {"kameleon": kameleon, "peft": peft, "gemm_floor": gemm_floor}


def serve(contender: str, job: Job, pipe: Connection) -> None:
    """Step whenever asked; answer with seconds, loss and the peak of this process's memory."""
    import resource

    torch.set_num_threads(os.cpu_count() or 1)
    step = CONTENDERS[contender](job)
    while pipe.recv():
        start = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - start
        pipe.send((seconds, loss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(job: Job, steps: int) -> dict[str, Any]:
    """`steps` timed steps of every contender in turn, after one to warm up."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    peaks: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    losses: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in CONTENDERS:
        pipes[name], other = context.Pipe()
        context.Process(target=serve, args=(name, job, other), daemon=True).start()
    for turn in range(steps + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            took, loss, peaks[name] = pipe.recv()
            losses[name].append(loss)
            if turn:
                seconds[name].append(took)
            print(f"{name:12} {'warm-up' if not turn else f'step {turn}'}: {took:.2f} s, loss {loss:.4f}", flush=True)
    for pipe in pipes.values():
        pipe.send(False)
    count = job.rows * job.tokens
    s = {name: median(values) for name, values in seconds.items()}
    ours, theirs = losses["kameleon"][0], losses["peft"][0]
    return {
        "tokens_per_s": count / s["kameleon"],
        "peft_tokens_per_s": count / s["peft"],
        "vs_peft": s["peft"] / s["kameleon"],
        "gemm_floor_multiple": s["kameleon"] / s["gemm_floor"],
        "peft_gemm_floor_multiple": s["peft"] / s["gemm_floor"],
        "peak_bytes": peaks["kameleon"],
        "peft_peak_bytes": peaks["peft"],
        "first_loss_gap": abs(ours - theirs) / theirs,
        "seconds": seconds,
        "losses": losses,
    }


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "commit": commit,
        "versions": {name: version(name) for name in ("kameleon", "torch", "transformers", "peft")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    wish = parser.parse_args()
    from kameleon.ops import measure_compute_type

    chosen = measure_compute_type()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, None: chosen.dtype}[wish.dtype]
    result = {
        "machine": machine(),
        "compute": chosen.reason,
        "dtype": str(dtype).removeprefix("torch."),
        "rows": wish.rows,
        "tokens": wish.tokens,
        "rank": RANK,
        **measure(Job(dtype, wish.rows, wish.tokens), wish.steps),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("seconds", "losses")}, indent=1))


if __name__ == "__main__":
    main()
