"""TRL packs and learns what the others do, so its speed is that of the same work."""

import pytest
import torch

from kameleon.adapters import Adapter, Card
from kameleon.adapters.formats import write_adapter
from kameleon.bench import BenchSettings, Case
from kameleon.bench.ours import recipe_of, train_with_kameleon
from kameleon.bench.peers import train_with_peft, train_with_trl
from kameleon.bench.turns import Job
from kameleon.model import open_weights, read_config
from kameleon.training.trainee import fresh_factors

VOCAB = 320


class SameRows(Case):
    """Every step has the same rows, since TRL chooses in which order it takes them."""

    def batch(self, step, vocab_size):
        return super().batch(0, vocab_size)


class Turns:
    """Some turns without a process."""

    def __init__(self, case, count):
        self.case, self.count, self.losses, self.tokens = case, count, [], []

    def next(self):
        self.count -= 1
        return self.case.batch(0, VOCAB) if self.count >= 0 else None

    def done(self, loss, tokens=None):
        self.losses.append(loss)
        self.tokens.append(tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_packed_losses_are_those_of_kameleon_and_peft(tiny_folder, tmp_path):
    pytest.importorskip("trl")
    case = SameRows("chat", 3, 24, str(tiny_folder), shortest_tokens=8)
    count = sum(map(len, case.batch(0, VOCAB)))
    # The packed row holds all rows of all steps, so each of TRL's steps has the rows of one step, many times over.
    settings = BenchSettings(steps=3, rank=4, compute="fp32", micro_batch_tokens=2000, learning_rate=1e-2)
    config = read_config(tiny_folder, open_weights(tiny_folder))
    write_adapter(Adapter("first", fresh_factors(config, recipe_of(settings)), Card()), tmp_path / "first")
    job = Job(case, VOCAB, str(tiny_folder), str(tmp_path / "first"), torch.float32, settings)
    turns = {run: Turns(case, 4) for run in (train_with_kameleon, train_with_peft, train_with_trl)}
    for run, given in turns.items():
        run(job, given)
    ours, theirs, packed = (given.losses for given in turns.values())
    assert ours[-1] < ours[0] - 1
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert packed == pytest.approx(theirs, rel=1e-5)
    assert turns[train_with_trl].tokens[0] % count == 0
