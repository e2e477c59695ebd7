"""Four adapters on one frozen base, in a quarter of an hour on two cores, and the table that shows what each learned.

    python examples/demo/run.py [FOLDER]        (make demo)

Trains law, medicine, code and polish on real rows, as many as fit the time, scores the base and every adapter on every
test set, prints the table and writes FOLDER/report.json. What is there already is used again.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from medicine import build
from rich.text import Text

from kameleon import LoadedBase, Recipe, Watch
from kameleon.adapters import Adapter, Bank, Card
from kameleon.cli.console import megabytes, notes, open_base, progress, results, table
from kameleon.cli.evaluate import as_document
from kameleon.cli.train import train_with_bar
from kameleon.data import Corpus, pack, sample
from kameleon.errors import KameleonError
from kameleon.training import GENERAL_TEXT, Schedule, Score
from kameleon.training.step import Trainee, fresh_adapter, train_step

HERE = Path(__file__).parent
EVALUATION_S = 150.0  # for all adapters on all test sets
_FEWEST_TEST_ROWS, _MOST_TEST_ROWS = 100, 264


@dataclass(frozen=True)
class Task:
    """One adapter: its data, the seconds it may train, and the longest row worth the time (most are shorter)."""

    name: str
    train_s: float
    longest_tokens: int
    recipe: Recipe


# The upper ten of thirty layers are enough for these skills, and gradients then stop early. Rows of a few words are
# averaged by 16 with a larger step; long ones by 8, law's at the same larger step, code's at the derived one.
SHORT = Recipe(layers=10, epochs=1, rows_per_step=16, learning_rate=2e-3)
LONG = Recipe(layers=10, epochs=1, rows_per_step=8)
TASKS = (
    Task("law", 230, 112, replace(LONG, learning_rate=2e-3)),
    Task("medicine", 175, 90, SHORT),
    Task("code", 140, 122, LONG),
    Task("polish", 105, 90, SHORT),
)


def main(out: Path) -> None:
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    notes.print("building the medicine rows", highlight=False)
    build(out / "data" / "medicine")
    loaded = open_base("smollm2")
    speed = training_speed(loaded)
    notes.print(f"this machine trains about {speed:,.0f} tokens/s on the upper layers", highlight=False)
    for task in TASKS:
        # A laptop slows down when it gets warm: what the last run reached decides how many rows the next one can have.
        speed = min(speed, train(loaded, task, out, speed))
    scores, raw_scores, forgotten = evaluate(loaded, out, speed)
    report = make_report(loaded, scores, raw_scores, forgotten, switch_times(loaded))
    report["minutes"] = (time.perf_counter() - started) / 60
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)
    results.print(f"\n{report['minutes']:.1f} minutes in all; the same as JSON: {out / 'report.json'}")
    results.print("talk to them: .venv/bin/kameleon chat --adapter law")


def data_file(out: Path, name: str, side: str) -> Path:
    return (out if name == "medicine" else HERE) / "data" / name / f"{side}.jsonl"


def training_speed(loaded: LoadedBase) -> float:
    """Tokens a second of a training step on this machine, measured on a throw-away adapter."""
    bank = Bank(loaded.base)
    card = Card(base_id=loaded.base.name, base_fingerprint=loaded.base.fingerprint)
    bank.add(fresh_adapter(loaded.base, "calibration", LONG, card))
    trainee = Trainee(bank.resident("calibration"), LONG)
    rows = LONG.rows_per_step or 8
    examples = sample(loaded.read(data_file(HERE, "law", "test")).examples, 5 * rows)
    speeds: list[float] = []
    for at in range(0, len(examples), rows):
        start = time.perf_counter()
        packs = pack(examples[at : at + rows], 1024, 0)
        tokens = train_step(loaded.base, bank, trainee, packs, 1e-4).tokens
        speeds.append(tokens / (time.perf_counter() - start))
    return median(speeds)


def own_tokens(loaded: LoadedBase, corpus: Corpus) -> float:
    """Mean tokens a row beyond the system prompt, which a packed step computes once for all rows."""
    shared = len(loaded.encode_prompt([{"role": "user", "content": ""}])) - 5
    return sum(len(e.tokens) for e in corpus.examples) / len(corpus.examples) - shared


def train(loaded: LoadedBase, task: Task, out: Path, speed: float) -> float:
    """Train on as many rows as the task's time allows at `speed`, unless the adapter is on the shelf already.

    Returns the tokens/s that it reached.
    """
    path = data_file(out, task.name, "train")
    corpus = loaded.read(path)
    if loaded.shelf.has(task.name):
        card = loaded.shelf.load(task.name).card
        if (card.base_fingerprint, card.data.get("sha256")) == (loaded.base.fingerprint, corpus.origin.sha256):
            notes.print(f"{task.name}: on the shelf already, used again", highlight=False)
            return speed
    order = [i for i, e in enumerate(corpus.examples) if len(e.tokens) <= task.longest_tokens]
    random.Random(0).shuffle(order)
    rows = min(len(order) - 32, int(task.train_s * speed / own_tokens(loaded, corpus.pick(order))))
    steps = Schedule.of(task.recipe, rows).steps
    watch = Watch(eval_every=math.ceil(steps / 3), eval_rows=32, patience=0)
    taught, watched = corpus.pick(order[:rows]), corpus.pick(order[rows : rows + 32])
    notes.print(f"{task.name}: {rows} rows in {steps} steps", highlight=False)
    result = train_with_bar(loaded, taught, task.name, watched, task.recipe, watch, overwrite=True)
    return result.tokens / result.seconds


def evaluate(loaded: LoadedBase, out: Path, speed: float) -> tuple[list[Score], list[Score], list[Score]]:
    """Scores of all on all sets, of the base on the raw form of the rows, and of all on general text."""
    names: list[str | None] = [None, *(task.name for task in TASKS)]
    files = {task.name: data_file(out, task.name, "test") for task in TASKS}
    corpora = {name: loaded.read(file) for name, file in files.items()}
    cost = sum(own_tokens(loaded, corpus) for corpus in corpora.values()) * (len(names) + 1) / 2
    rows = min(_MOST_TEST_ROWS, max(_FEWEST_TEST_ROWS, int(EVALUATION_S * speed / cost)))
    places = {name: sample(range(len(corpus.examples)), rows) for name, corpus in corpora.items()}
    sets = [loaded.test_set(name, corpus.pick(places[name])) for name, corpus in corpora.items()]
    raw = [loaded.test_set(name, loaded.read(file, raw=True).pick(places[name])) for name, file in files.items()]
    general = loaded.test_set("general text", loaded.read(GENERAL_TEXT))
    for name in names[1:]:
        assert name is not None
        loaded.load_adapter(name)
    with progress() as bars:
        count = sum(len(s.sequences) for s in [*sets, general]) * len(names) + sum(len(s.sequences) for s in raw)
        task = bars.add_task("evaluating", total=count)

        def on_rows(done: int) -> None:
            bars.update(task, advance=done)

        scores = loaded.evaluate(names, sets, on_rows)
        return scores, loaded.evaluate([None], raw, on_rows), loaded.evaluate(names, [general], on_rows)


def switch_times(loaded: LoadedBase) -> dict[str, float]:
    """Milliseconds to pick a resident adapter for the next request, and to make a cold one resident from its file."""
    names = [task.name for task in TASKS] * 250
    start = time.perf_counter()
    for name in names:
        loaded.bank.slot(name)
    resident_ms = (time.perf_counter() - start) * 1000 / len(names)
    cold_ms = []
    for task in TASKS:
        start = time.perf_counter()
        loaded.bank.add(Adapter.load(loaded.shelf.path(task.name)))
        cold_ms.append((time.perf_counter() - start) * 1000)
    return {"resident_ms": resident_ms, "cold_ms": sum(cold_ms) / len(cold_ms)}


def make_report(
    loaded: LoadedBase,
    scores: Sequence[Score],
    raw_scores: Sequence[Score],
    forgotten: Sequence[Score],
    switching: dict[str, float],
) -> dict[str, Any]:
    """All figures of the table. The base is credited with the better of its two forms, template and raw."""
    base_bytes = loaded.base.files.path.stat().st_size
    adapters = {}
    for task in TASKS:
        adapter = loaded.shelf.load(task.name)
        recipe = adapter.card.recipe
        path = loaded.shelf.path(task.name)
        adapters[task.name] = {
            "trained_parameters": adapter.parameters,
            "share": adapter.parameters / loaded.base.parameters,
            "file_bytes": sum(file.stat().st_size for file in path.iterdir()),
            "rows": adapter.card.data["rows"],
            "minutes": recipe["seconds"] / 60,
            "tokens_per_s": recipe["tokens"] / recipe["seconds"],
        }
    raw = {score.testset: score for score in raw_scores}
    rows = []
    for score in scores:
        row = {**as_document(score), "score": score.held_out}
        if score.adapter is None:
            other = raw[score.testset]
            row["score_raw"], row["bits_per_byte_raw"] = other.held_out, other.bits_per_byte
            row["score"] = max(score.held_out, other.held_out)
            row["bits_per_byte"] = min(score.bits_per_byte, other.bits_per_byte)
        rows.append(row)
    return {
        "base": {"name": loaded.base.name, "source": loaded.base.files.source, "bytes": base_bytes}
        | {"parameters": loaded.base.parameters, "compute": loaded.base.compute_reason},
        "rows": rows,
        "forgetting": {s.adapter: s.loss - forgotten[0].loss for s in forgotten if s.adapter},
        "adapters": adapters,
        "switching": switching,
        "recipes": {task.name: loaded.shelf.load(task.name).card.recipe for task in TASKS},
    }


def print_report(report: dict[str, Any]) -> None:
    """Adapters down, test sets across; then what each adapter cost."""
    cells = {(row["adapter"], row["testset"]): row for row in report["rows"]}
    names = [task.name for task in TASKS]
    scores = table("adapter", *(f">{name}" for name in names), ">forgets")
    for adapter in ["base", *names]:
        told = [f"{cells[adapter, n]['score']:.3f} · {cells[adapter, n]['bits_per_byte']:.2f}" for n in names]
        own = [Text(cell, "bold" if name == adapter else "") for name, cell in zip(names, told, strict=True)]
        change = report["forgetting"].get(adapter)
        scores.add_row(adapter, *own, "" if change is None else f"{change:+.2f}")
    results.print(scores)
    results.print(
        f"score · bits per byte of the right answers, on {report['rows'][0]['rows']} held-out rows a set; the score is "
        "the choice of the first token (polish: exact match); forgets: nats per token of general text\n",
        style="dim",
        highlight=False,
    )
    costs = table("adapter", ">trained", ">of the base", ">file", ">rows", ">minutes", ">tokens/s")
    base = report["base"]
    costs.add_row("base", f"{base['parameters']:,}", "", megabytes(base["bytes"]), "", "", "")
    for name, about in report["adapters"].items():
        costs.add_row(
            name,
            f"{about['trained_parameters']:,}",
            f"{about['share']:.2%}",
            megabytes(about["file_bytes"]),
            str(about["rows"]),
            f"{about['minutes']:.1f}",
            f"{about['tokens_per_s']:.0f}",
        )
    results.print(costs)
    switching = report["switching"]
    results.print(
        f"switching to a resident adapter {switching['resident_ms']:.4f} ms, a cold one {switching['cold_ms']:.0f} ms",
        style="dim",
        highlight=False,
    )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
    except KameleonError as error:
        sys.exit(f"error: {error}")
