"""The probabilities of a prompt's own tokens are those of one plain pass over it, however it is computed."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from generation.batches import add, batch_of, run
from tiny import save_base

import kameleon
from kameleon import Sampling
from kameleon.errors import SettingError
from kameleon.generation import Request, step
from kameleon.ops import Segments, can_multiply

PROMPT = tuple((7 * i) % 250 for i in range(100))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    loaded = kameleon.load(str(folder), dtype=torch.float32)
    for seed in range(2):
        loaded.bank.add(random_adapter(loaded.base, f"a{seed}", seed))
    return loaded


def scored(prompt=PROMPT, tokens=0, alternatives=2, **wish):
    return Request(prompt, None, Sampling(max_tokens=tokens, logprobs=alternatives, **wish), score_prompt=True)


@torch.inference_mode()
def reference(loaded, prompt, slot):
    """log softmax of every position, [tokens, vocab_size], by the pass that training and evaluation use."""
    hidden = loaded.base.decoder.hidden(torch.tensor(prompt), Segments((len(prompt),), (slot,)), loaded.bank)
    return loaded.base.decoder.logits(hidden, [slot] * len(prompt), loaded.bank).log_softmax(-1)


def check(scores, expected, prompt=PROMPT):
    assert [s.token for s in scores] == list(prompt[1:])
    for one, row in zip(scores, expected, strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
        best = row.topk(len(one.alternatives))
        assert [value for _, value in one.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert dict(one.alternatives).get(one.token, one.logprob) == one.logprob  # to the bit: clients compare them


@pytest.mark.parametrize("slot", [-1, 0])
@pytest.mark.parametrize(("chunk", "rows"), [(256, 1000), (16, 1000), (256, 7), (33, 7)])
def test_they_equal_the_reference_in_any_chunks(loaded, monkeypatch, slot, chunk, rows):
    monkeypatch.setattr(step, "chunk_rows", lambda vocab_size, dtype: rows)
    running = batch_of(loaded, prefill_chunk_tokens=chunk)
    number = add(running, scored(), slot)
    done = run(running)[number]
    check(done.prompt_scores, reference(loaded, PROMPT, slot))
    assert (done.finish, done.tokens, done.scores) == ("length", (), ())


def test_a_prompt_that_is_in_the_cache_is_scored_all_the_same_and_under_its_own_adapter(loaded):
    running = batch_of(loaded)
    for slot in (-1, 0, 1):
        add(running, Request(PROMPT, None, Sampling(max_tokens=2)), slot)
        run(running)
    numbers = {add(running, scored(tokens=3), slot): slot for slot in (-1, 0, 1)}
    plain = add(running, Request(PROMPT, None, Sampling(max_tokens=3)), 1)
    done = run(running)
    for number, slot in numbers.items():
        check(done[number].prompt_scores, reference(loaded, PROMPT, slot))
        assert done[number].cached_tokens == 0
        assert len(done[number].scores) == len(done[number].tokens) == 3
    assert done[plain].cached_tokens > 0 and done[plain].prompt_scores == ()


def test_being_preempted_changes_nothing(loaded):
    alone = batch_of(loaded)
    number = add(alone, scored(tokens=30), 0)
    expected = run(alone)[number]
    crowded = batch_of(loaded, pages=17, prefill_chunk_tokens=32)
    numbers = [add(crowded, scored(tokens=30), 0) for _ in range(3)]
    done = run(crowded)
    assert crowded.preemptions
    for got in (done[number] for number in numbers):
        if can_multiply(torch.float32):
            assert got == expected
        assert replace(got, scores=(), prompt_scores=()) == replace(expected, scores=(), prompt_scores=())
        for mine, theirs in ((got.scores, expected.scores), (got.prompt_scores, expected.prompt_scores)):
            assert [s.token for s in mine] == [s.token for s in theirs]
            # torch's products, on the reference path, are not the same to the bit in other chunks.
            assert [s.logprob for s in mine] == pytest.approx([s.logprob for s in theirs], abs=1e-4)


def test_they_come_with_the_first_piece_and_once(loaded):
    running = batch_of(loaded)
    add(running, scored(tokens=8, logit_bias=((65, 100.0),)), -1)
    pieces = []
    while not running.idle:
        pieces += running.step()
    assert [len(p.prompt_scores) for p in pieces] == [99] + [0] * (len(pieces) - 1)
    assert len(pieces) > 1


def test_an_end_token_has_a_score_so_that_positions_count_up(loaded):
    (end, *_) = loaded.base.stop_token_ids
    running = batch_of(loaded)
    number = add(running, scored(tokens=1, logit_bias=((end, 100.0),)), -1)
    done = run(running)[number]
    assert (done.finish, done.tokens) == ("stop", ())
    assert [s.token for s in done.scores] == [end]


def test_nothing_to_do_is_refused(loaded):
    with pytest.raises(SettingError, match="max_tokens is 0"):
        batch_of(loaded).check(Request(PROMPT, None, Sampling(max_tokens=0)))
