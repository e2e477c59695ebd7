"""Does a run take the memory and the time that its plan said?

    .venv/bin/python benchmarks/plan_vs_actual.py [part of a case's name …]

Each case is planned in one process, from the base's header alone, and then run for a few steps in another, which plans
nothing. Peak memory is all that the process ever held (VmHWM), mapped files included; time is the mean of the steps
after the first. What was measured while other programs used the processor is measured again.
The result goes to benchmarks/plan_vs_actual.json, with kernels of another level (KAMELEON_NATIVE) to a file of its own;
cases that are there already are kept unless named.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

LEVEL = os.environ.get("KAMELEON_NATIVE", "")
RESULT = Path(__file__).with_suffix(f".{LEVEL}.json" if LEVEL else ".json")
STEPS = 4
MEMORY_GOAL, TIME_GOAL = 0.10, 0.20
DISTURBED_CORES = 0.3  # by other programs, on average
ATTEMPTS, WAIT_S = 2, 20


@dataclass(frozen=True)
class Case:
    """A step of `rows` rows of `tokens` random tokens each, all learned."""

    base: str
    rank: int
    rows: int
    tokens: int
    checkpoint_layers: int = 0
    quantize: Literal["nf4"] | None = None

    @property
    def name(self) -> str:
        again = f", {self.checkpoint_layers} layers again" if self.checkpoint_layers else ""
        packed = f" in {self.quantize}" if self.quantize else ""
        return f"{self.base}{packed}, rank {self.rank}, {self.rows} × {self.tokens}{again}"


SMOLLM2, SMOLLM2_BF16 = "smollm2", "smollm2-135m-random"
QWEN_HALF_Q4, QWEN_HALF, QWEN = "qwen2.5-0.5b-q4_0-random", "qwen2.5-0.5b-random", "qwen2.5-1.5b-q4_0-random"
CASES = (
    Case(SMOLLM2, 8, 8, 128),
    Case(SMOLLM2, 8, 2, 512),
    Case(SMOLLM2, 64, 2, 512),
    Case(SMOLLM2, 8, 1, 2048),
    Case(SMOLLM2, 8, 1, 2048, checkpoint_layers=30),
    Case(SMOLLM2, 16, 6, 420),
    Case(SMOLLM2, 16, 36, 85),
    Case(SMOLLM2, 16, 6, 420, checkpoint_layers=10),
    Case(SMOLLM2_BF16, 8, 2, 512),
    Case(SMOLLM2_BF16, 64, 1, 2048, checkpoint_layers=30),
    Case(QWEN_HALF_Q4, 8, 2, 512),
    Case(QWEN_HALF_Q4, 64, 1, 2048, checkpoint_layers=24),
    Case(QWEN_HALF, 8, 8, 128),
    Case(QWEN_HALF, 8, 2, 512, quantize="nf4"),
    Case(QWEN, 8, 4, 128),
    Case(QWEN, 64, 1, 512),
    Case(QWEN, 8, 2, 512, checkpoint_layers=28),
    Case(QWEN, 8, 2, 512, checkpoint_layers=14),
)


def examples_of(case: Case, vocab_size: int) -> list[Any]:
    from kameleon.data import Example

    draw = random.Random(0)
    return [
        Example(i, tuple(draw.randrange(3, vocab_size) for _ in range(case.tokens)), (True,) * case.tokens)
        for i in range(STEPS * case.rows)
    ]


def settings_of(case: Case) -> tuple[Any, Any, Any]:
    from kameleon import Execution, Recipe, Watch

    recipe = Recipe(rank=case.rank, epochs=1, rows_per_step=case.rows, learning_rate=1e-4, max_row_tokens=case.tokens)
    return recipe, Watch(save_every_s=1e9), Execution(checkpoint_layers=case.checkpoint_layers)


def planned(case: Case) -> dict[str, Any]:
    """Peak memory and seconds of a step, from the header."""
    from kameleon.bench.bases import base_path
    from kameleon.plan import make_plan, process_bytes, read_base_header, workload_of

    header = read_base_header(str(base_path(case.base)), case.quantize)
    header.template()
    recipe, watch, execution = settings_of(case)
    examples = examples_of(case, header.config.vocab_size)
    plan = make_plan(
        header,
        lambda watch, execution: workload_of(examples, (), recipe, watch, execution),
        recipe=recipe,
        watch=watch,
        execution=execution,
        process_bytes=process_bytes(),
        quantize=case.quantize,
    )
    return {
        "peak_bytes": plan.forecast.peak_bytes,
        "seconds_per_step": plan.forecast.seconds_per_step,
        "parts": vars(plan.chosen.memory),
        "dtype": str(plan.dtype),
    }


def run(case: Case) -> dict[str, Any]:
    """The same of a run of a few steps; what the base's weights are read for the first time is done before."""
    import kameleon
    from kameleon.api.runs import new_run
    from kameleon.bench.bases import base_path
    from kameleon.data import Corpus
    from kameleon.data.corpus import Origin
    from kameleon.training import read_log

    loaded = kameleon.load(str(base_path(case.base)), quantize=case.quantize)
    examples = tuple(examples_of(case, loaded.base.config.vocab_size))
    rows = Corpus(examples, ((),) * len(examples), Origin("random", "", len(examples), 0, raw=True))
    recipe, watch, execution = settings_of(case)
    made = new_run(
        loaded.base,
        rows,
        "plan-vs-actual",
        held_out=rows.pick(()),
        recipe=recipe,
        watch=watch,
        execution=execution,
        overwrite=True,
    )
    result = made.run()
    at = [record["seconds"] for record in read_log(made.folder) if "loss" in record]
    return {
        "peak_bytes": result.peak_bytes,
        "seconds_per_step": (at[-1] - at[0]) / (len(at) - 1),
        "dtype": str(loaded.base.compute_dtype),
    }


def prepare(case: Case) -> dict[str, Any]:
    """Build the base, hash it and pack it, so that no run does."""
    import kameleon
    from kameleon.bench.bases import base_path

    kameleon.load(str(base_path(case.base)), quantize=case.quantize)
    return {}


def machine() -> dict[str, Any]:
    import torch

    from kameleon.bench.machine import machine as describe
    from kameleon.ops import choose_compute_type, kernels

    return {**describe(), "threads": torch.get_num_threads(), "kernels": kernels().level} | {
        "compute_type": choose_compute_type().reason
    }


def in_its_own_process(what: str, case: Case | None = None) -> dict[str, Any]:
    given = json.dumps(asdict(case) if case else None)
    command = [sys.executable, __file__, f"--{what}", given]
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run(command, stdout=said, check=True)
        said.seek(0)
        return json.loads(said.read().splitlines()[-1])


def busy_s() -> float:
    """Seconds of all cores since the start of the machine, other than idle."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet() -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        before = busy_s()
        time.sleep(2)
        if busy_s() - before < 2 * DISTURBED_CORES:
            return


def undisturbed(what: str, case: Case) -> dict[str, Any]:
    """A measurement with what others used of the processor meanwhile, in cores; the quietest of a few attempts."""
    made = []
    for _ in range(ATTEMPTS):
        wait_for_quiet()
        own, busy, start = resource.getrusage(resource.RUSAGE_CHILDREN), busy_s(), time.monotonic()
        result = in_its_own_process(what, case)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
        others = (busy_s() - busy - used) / (time.monotonic() - start)
        made.append({**result, "others_cores": round(max(0.0, others), 3)})
        if others < DISTURBED_CORES:
            break
    return min(made, key=lambda one: one["others_cores"])


def compare(case: Case) -> dict[str, Any]:
    in_its_own_process("prepare", case)
    before, after = undisturbed("planned", case), undisturbed("run", case)
    off = {key: before[key] / after[key] - 1 for key in ("peak_bytes", "seconds_per_step")}
    return {"case": case.name, **asdict(case), "planned": before, "actual": after, "off": off}


def table(cases: list[dict[str, Any]]) -> str:
    lines = ["| run | peak memory, planned | actual | off | s a step, planned | actual | off |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in cases:
        before, after, off = one["planned"], one["actual"], one["off"]
        lines.append(
            f"| {one['case']} | {before['peak_bytes'] / 1e9:.2f} GB | {after['peak_bytes'] / 1e9:.2f} GB "
            f"| {off['peak_bytes']:+.0%} | {before['seconds_per_step']:.2f} | {after['seconds_per_step']:.2f} "
            f"| {off['seconds_per_step']:+.0%} |"
        )
    return "\n".join(lines)


def main(names: list[str]) -> None:
    kept = json.loads(RESULT.read_text())["cases"] if RESULT.exists() and names else []
    done = {one["case"]: one for one in kept}
    for case in CASES:
        if not names or any(name in case.name for name in names):
            done[case.name] = compare(case)
            print(table([done[case.name]]).splitlines()[-1], flush=True)
            ordered = [done[one.name] for one in CASES if one.name in done]
            within = {
                "memory_within_goal": sum(abs(one["off"]["peak_bytes"]) <= MEMORY_GOAL for one in ordered),
                "time_within_goal": sum(abs(one["off"]["seconds_per_step"]) <= TIME_GOAL for one in ordered),
                "of": len(ordered),
            }
            document = {"machine": in_its_own_process("machine"), **within, "cases": ordered}
            RESULT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(table(list(done.values())))


if __name__ == "__main__":
    parts = {"--prepare": prepare, "--planned": planned, "--run": run}
    if len(sys.argv) == 3 and sys.argv[1] in parts:
        print(json.dumps(parts[sys.argv[1]](Case(**json.loads(sys.argv[2])))))
    elif len(sys.argv) == 3 and sys.argv[1] == "--machine":
        print(json.dumps(machine()))
    else:
        main(sys.argv[1:])
