"""What a packed base costs in quality: the demo's medicine adapter trained on the Q4_1 file and on it unpacked."""

import sys
from pathlib import Path

import pytest

from kameleon import LoadedBase, Recipe, Watch
from kameleon.adapters import Shelf
from kameleon.bases import load_base
from kameleon.bench.ours import unpacked

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.mark.slow
def test_medicine_is_learned_as_well_on_the_packed_base(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    build = __import__("medicine").build
    sys.modules.pop("medicine")
    build(tmp_path)
    recipe = Recipe(layers=10, epochs=1, rows_per_step=16, learning_rate=2e-3)
    scores = {}
    for name, base in (("packed", load_base("smollm2")), ("unpacked", unpacked(load_base("smollm2")))):
        loaded = LoadedBase(base, Shelf(tmp_path / name))
        rows, held_out = loaded.read(tmp_path / "train.jsonl"), loaded.read(tmp_path / "test.jsonl")
        watch = Watch(eval_every=1000, eval_rows=1, patience=0)
        loaded.train(rows.pick(range(640)), "medicine", held_out=held_out.pick([0]), recipe=recipe, watch=watch)
        test = loaded.test_set("medicine", held_out.pick(range(200)))
        (scores[name],) = loaded.evaluate(["medicine"], [test])
    packed, plain = scores["packed"], scores["unpacked"]
    assert packed.loss == pytest.approx(plain.loss, rel=0.01)
    assert packed.choice_accuracy == pytest.approx(plain.choice_accuracy, abs=0.015)
    assert packed.choice_accuracy > 0.35  # it learned something: one of eighteen chapters by chance is 0.06
