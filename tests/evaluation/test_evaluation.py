"""Scores on test sets."""

import json
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from tiny import save_base

import kameleon
from kameleon.adapters.resident import Bank
from kameleon.data import Example, pack
from kameleon.evaluation import as_trained, evaluate, make_test_set
from kameleon.ops import NO_ADAPTER
from kameleon.training.losses import token_logprobs


def test_a_score_in_bf16_is_the_loss_of_training(tmp_path):
    """Not of logits that were rounded on the way, as products in bf16 leave them if nobody asks for more."""
    # Stored in bf16: where bf16 is widened, not all kernels round a stored fp32 weight.
    save_base(tmp_path / "base", "llama tied").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    base = kameleon.load(str(tmp_path / "base"), dtype=torch.bfloat16).base
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, base.config.vocab_size, (30 + i,), generator=draw).tolist() for i in range(6)]
    examples = [Example(i, tuple(row), (False,) * 9 + (True,) * (len(row) - 9)) for i, row in enumerate(rows)]
    (score,) = evaluate(base, Bank(base), [None], make_test_set(base, "some", examples, [()] * len(rows)))
    loss, decoder = 0.0, base.decoder
    for one in pack(examples, 1024, adapter=NO_ADAPTER):
        hidden = decoder.hidden(one.tokens, one.segments)
        loss -= token_logprobs(decoder, hidden, one.labels).sum().item()
    assert score.loss * sum(len(row) - 9 for row in rows) == pytest.approx(loss, rel=1e-6)


PIRATE = {"role": "system", "content": "You are a pirate."}
NAMES = [None, "pirate", "plain", "also"]


@pytest.fixture
def crew(tiny):
    """Two adapters that were trained with one system prompt, and one that was trained without."""
    for seed, name in enumerate(("pirate", "plain", "also")):
        adapter = random_adapter(tiny.base, name, seed)
        card = replace(adapter.card, system_prompt=None if name == "plain" else PIRATE["content"])
        tiny.load_adapter(replace(adapter, card=card))
    return tiny


def read(loaded, path, *begun):
    talks = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i % 3}!"}] for i in range(6)]
    rows = [{"messages": [*begun, *talk]} for talk in talks]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return loaded.read(path)


def test_rows_without_a_system_message_are_scored_with_the_one_of_each_adapter(crew, tmp_path):
    bare, begun = read(crew, tmp_path / "bare.jsonl"), read(crew, tmp_path / "begun.jsonl", PIRATE)
    counted = []
    got = crew.evaluate(NAMES, [crew.test_set("t", bare)], on_rows=counted.append)
    assert [score.adapter for score in got] == NAMES and sum(counted) == 4 * 6
    as_written = crew.evaluate(NAMES, [crew.test_set("t", bare, as_trained=False)])
    with_it = crew.evaluate(NAMES, [crew.test_set("t", begun)])
    for at, name in enumerate(NAMES):
        same = with_it if name in ("pirate", "also") else as_written
        assert got[at] == replace(same[at], loss=got[at].loss, bits_per_byte=got[at].bits_per_byte)
        assert got[at].loss == pytest.approx(same[at].loss, rel=1e-5)
        assert as_written[at].loss != pytest.approx(with_it[at].loss, rel=1e-5)


def test_adapters_that_see_the_same_tokens_are_scored_together(crew, tmp_path, monkeypatch):
    together = []

    def noted(base, bank, adapters, test, **more):
        together.append(adapters)
        return evaluate(base, bank, adapters, test, **more)

    monkeypatch.setattr(as_trained, "evaluate", noted)
    bare, begun = read(crew, tmp_path / "bare.jsonl"), read(crew, tmp_path / "begun.jsonl", PIRATE)
    for corpus, expected in ((bare, [[None, "plain"], ["pirate", "also"]]), (begun, [NAMES])):
        together.clear()
        crew.evaluate(NAMES, [crew.test_set("t", corpus)])
        assert together == expected
