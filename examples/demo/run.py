"""Four adapters on one frozen base, in a quarter of an hour on two cores, and the table that shows what each learned.

    python examples/demo/run.py [FOLDER]        (make demo)

Trains law, medicine, code and polish on real rows, as many as fit the time, scores the base and every adapter on every
test set, prints the table and writes FOLDER/report.json. What is there already is used again, and an adapter that was
interrupted goes on from its last step.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medicine import build
from rich.text import Text

from kameleon import LoadedBase, Recipe, Watch
from kameleon.adapters.formats import read_adapter
from kameleon.cli.console import megabytes, notes, open_base, progress, results, table
from kameleon.cli.evaluate import as_document
from kameleon.cli.plan import tell_plan
from kameleon.cli.told_run import training_bar
from kameleon.data import sample
from kameleon.errors import CheckpointError, KameleonError, RunInterruptedError
from kameleon.evaluation import GENERAL_TEXT, Score, TestSet
from kameleon.home import runs_dir
from kameleon.training import read_log, saved_identity

HERE = Path(__file__).parent
WHOLE_S = 840.0  # of the demo, a minute below the quarter of an hour
EVALUATION_S = 150.0  # of these, for all adapters on all test sets
_FEWEST_TEST_ROWS, _MOST_TEST_ROWS, _TIMED_TEST_ROWS = 100, 264, 16


@dataclass(frozen=True)
class Task:
    """One adapter: its data, its part of the time for training, and the longest row worth it (most are shorter)."""

    name: str
    part: float
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


class Clock:
    """The seconds that are left of the demo; what an earlier start of it has trained counts too."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def left_s(self) -> float:
        return WHOLE_S - (time.perf_counter() - self._started)

    def spent_before(self, seconds: float) -> None:
        self._started -= seconds


def main(out: Path) -> None:
    started, clock = time.perf_counter(), Clock()
    out.mkdir(parents=True, exist_ok=True)
    notes.print("building the medicine rows", highlight=False)
    build(out / "data" / "medicine")
    loaded = open_base("smollm2")
    for number, task in enumerate(TASKS):
        part = task.part / sum(later.part for later in TASKS[number:])
        train(loaded, task, out, clock, part)
    scores, raw_scores, forgotten = evaluate(loaded, out, clock)
    report = make_report(loaded, scores, raw_scores, forgotten, switch_times(loaded))
    report["minutes"] = (time.perf_counter() - started) / 60
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)
    results.print(f"\n{report['minutes']:.1f} minutes in all; the same as JSON: {out / 'report.json'}")
    results.print("talk to them: .venv/bin/kameleon chat --adapter law")


def data_file(out: Path, name: str, side: str) -> Path:
    return (out if name == "medicine" else HERE) / "data" / name / f"{side}.jsonl"


def train(loaded: LoadedBase, task: Task, out: Path, clock: Clock, part: float) -> None:
    """Train for `part` of the time that is left before the evaluation, unless the adapter is on the shelf already.

    A run of this task that was interrupted goes on, within the minutes that it began with.
    """
    corpus = loaded.read(data_file(out, task.name, "train"))
    if loaded.shelf.has(task.name):
        card = loaded.shelf.load(task.name).card
        if (card.base_fingerprint, card.data.get("sha256")) == (loaded.base.fingerprint, corpus.origin.sha256):
            notes.print(f"{task.name}: on the shelf already, used again", highlight=False)
            clock.spent_before(card.recipe.get("seconds", 0.0))
            return
    order = [i for i, e in enumerate(corpus.examples) if len(e.tokens) <= task.longest_tokens]
    random.Random(0).shuffle(order)
    taught, watched = corpus.pick(order[32:]), corpus.pick(order[:32])
    watch = Watch(eval_rows=32, patience=0)
    folder = runs_dir() / task.name

    def learn(recipe: Recipe, *, resume: bool) -> None:
        more: dict[str, Any] = {"resume": resume, "overwrite": not resume, "on_plan": tell_plan}
        with training_bar(task.name) as on_step:
            loaded.train(taught, task.name, held_out=watched, recipe=recipe, watch=watch, on_step=on_step, **more)

    try:
        begun = saved_identity(folder)
        if begun and begun["data"]["sha256"] == corpus.origin.sha256:
            notes.print(f"{task.name}: goes on from its last step", highlight=False)
            clock.spent_before(max((record["seconds"] for record in read_log(folder)), default=0.0))
            recipe = replace(task.recipe, minutes=begun["minutes"])
            learn(recipe, resume=True)
            return
    except CheckpointError as error:
        notes.print(f"{task.name}: begins anew ({error})", highlight=False)
    minutes = max(0.5, (clock.left_s - EVALUATION_S) * part / 60)
    recipe = replace(task.recipe, minutes=round(minutes, 2))
    notes.print(f"{task.name}: {recipe.minutes} minutes", highlight=False)
    learn(recipe, resume=False)


def evaluate(loaded: LoadedBase, out: Path, clock: Clock) -> tuple[list[Score], list[Score], list[Score]]:
    """Scores of all on all sets, of the base on the raw form of the rows, and of all on general text."""
    names: list[str | None] = [None, *(task.name for task in TASKS)]

    def sets_of(rows: int, *, raw: bool = False) -> list[TestSet]:
        corpora = {task.name: loaded.read(data_file(out, task.name, "test"), raw=raw) for task in TASKS}
        return [loaded.test_set(n, c.pick(sample(range(len(c.examples)), rows))) for n, c in corpora.items()]

    for task in TASKS:
        loaded.load_adapter(task.name)
    few, started = sets_of(_TIMED_TEST_ROWS), time.perf_counter()
    loaded.evaluate(names, few)
    row_s = (time.perf_counter() - started) / _TIMED_TEST_ROWS
    fitting = int(clock.left_s / (row_s * (len(names) + 1) / len(names)))  # the base reads its rows twice
    rows = min(_MOST_TEST_ROWS, max(_FEWEST_TEST_ROWS, fitting))
    sets, raw = sets_of(rows), sets_of(rows, raw=True)
    general = loaded.test_set("general text", loaded.read(GENERAL_TEXT))
    with progress() as bars:
        count = sum(len(s.sequences) for s in [*sets, general]) * len(names) + sum(len(s.sequences) for s in raw)
        bar = bars.add_task("evaluating", total=count)

        def on_rows(done: int) -> None:
            bars.update(bar, advance=done)

        scores = loaded.evaluate(names, sets, on_rows=on_rows)
        return scores, loaded.evaluate([None], raw, on_rows=on_rows), loaded.evaluate(names, [general], on_rows=on_rows)


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
        loaded.bank.add(read_adapter(loaded.shelf.path(task.name)))
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
            "rows": recipe.get("visits", adapter.card.data["rows"]),
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


def start(words: Sequence[str]) -> None:
    """The demo as a program."""
    try:
        main(Path(words[0] if words else "demo"))
    except (RunInterruptedError, KeyboardInterrupt):
        notes.print("interrupted: make demo again goes on", style="yellow")
        sys.exit(130)
    except KameleonError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    start(sys.argv[1:])
