"""Are the rows a step and the epochs that Kameleon derives as good as the best of a small search?

    .venv/bin/python benchmarks/defaults.py [TASK:ROWS …]      (all: law:50 law:200 … polish:1300, some hours)

Trains SmolLM2 on the first ROWS shuffled rows of a task of the demo with each of some rows a step and epochs, and three
times, with three seeds, as the defaults say; nothing is held out, so that the last adapter counts. Scores each on 150
test rows. Adds to benchmarks/defaults.json, where a run that is there already is not made again.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

import kameleon
from kameleon import Execution, LoadedBase, Recipe, Watch
from kameleon.api.runs import new_run
from kameleon.bench.machine import machine
from kameleon.data import sample
from kameleon.training import Schedule

HERE = Path(__file__).resolve().parent
RESULT = HERE / "defaults.json"
TASKS = ("law", "medicine", "code", "polish")
# rows: (rows a step, epochs) that are searched
GRID = {
    50: [(rows, epochs) for rows in (4, 8) for epochs in (1, 3, 8)],
    200: [(rows, epochs) for rows in (4, 8, 16) for epochs in (1, 3)],
    1300: [(rows, epochs) for rows in (8, 16) for epochs in (1, 2)],
}
SEEDS = (0, 1, 2)
TEST_ROWS = 150


def main(wanted: list[str]) -> None:
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    result["machine"] = machine()
    loaded = kameleon.load("smollm2", dtype=torch.bfloat16)
    for task, rows in (one.split(":") for one in wanted):
        schedule = Schedule.of(Recipe(), int(rows))
        default = schedule.rows_per_step, schedule.epochs
        runs = [(*settings, 0) for settings in GRID[int(rows)]] + [(*default, seed) for seed in SEEDS]
        for rows_per_step, epochs, seed in dict.fromkeys(runs):
            key = {"task": task, "rows": int(rows), "rows_per_step": rows_per_step, "epochs": epochs, "seed": seed}
            if not any(run.items() >= key.items() for run in result["runs"]):
                result["runs"].append({**key, **one_run(loaded, **key), "commit": result["machine"]["commit"]})
                RESULT.write_text(json.dumps(result, indent=1) + "\n")
                print(json.dumps(result["runs"][-1]), flush=True)


def one_run(
    loaded: LoadedBase, *, task: str, rows: int, rows_per_step: int, epochs: float, seed: int
) -> dict[str, float]:
    """Steps, and the held-out score of the last adapter."""
    data = HERE.parent / "examples" / "demo" / "data" / task
    if task == "medicine":
        data = HERE.parent / "demo" / "data" / task  # built by `make demo`
    corpus, test = loaded.read(data / "train.jsonl"), loaded.read(data / "test.jsonl")
    order = list(range(len(corpus.examples)))
    random.Random(7).shuffle(order)
    recipe = Recipe(rows_per_step=rows_per_step, epochs=epochs, seed=seed)
    run = new_run(
        loaded.base,
        corpus.pick(order[:rows]),
        "defaults",
        held_out=corpus.pick([]),
        recipe=recipe,
        watch=Watch(),
        execution=Execution(),
        overwrite=True,
    )
    result = run.run()
    if "defaults" in loaded.bank.names():
        loaded.bank.remove("defaults")
    loaded.bank.add(result.adapter)
    places = sample(range(len(test.examples)), TEST_ROWS, seed=1)
    (score,) = loaded.evaluate(["defaults"], [loaded.test_set(task, test.pick(places))])
    return {"steps": result.steps, "score": score.held_out, "bits_per_byte": score.bits_per_byte}


if __name__ == "__main__":
    main(sys.argv[1:] or [f"{task}:{rows}" for rows in GRID for task in TASKS])
