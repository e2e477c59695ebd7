"""The scheduler alone: who is admitted, who is preempted, which tokens go now, and that no page is ever lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kameleon.generation.pages import PagePool
from kameleon.generation.request import Request
from kameleon.generation.scheduler import Scheduler
from kameleon.generation.sequence import Sequence
from kameleon.model import DecoderConfig
from kameleon.model.rope import RopeConfig
from kameleon.ops import PAGE_TOKENS

CONFIG = DecoderConfig(
    family="llama",
    vocab_size=8,
    hidden_size=4,
    intermediate_size=4,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    rms_norm_eps=1e-5,
    rope=RopeConfig(),
    tie_word_embeddings=True,
    max_sequence_tokens=1000,
    stop_token_ids=frozenset(),
)


def scheduler_of(pages, max_sequences=8, chunk=64):
    pool = PagePool(CONFIG, pages, torch.float32)
    return Scheduler(pool, max_sequences=max_sequences, prefill_chunk_tokens=chunk)


def sequence_of(request_id, prompt, slot=-1, **how):
    prompt = tuple(range(prompt)) if isinstance(prompt, int) else tuple(prompt)
    return Sequence(request_id, Request(prompt, **how), slot, slot, chooser=None, stream=None, tokens=list(prompt))


def compute(scheduler, new_token=7):
    """As a step does, without a model: every scheduled token is computed, and finished prompts get one more token."""
    scheduled = [(one.sequence.id, one.tokens) for one in scheduler.schedule()]
    by_id = {sequence.id: sequence for sequence in scheduler.running}
    for request_id, tokens in scheduled:
        scheduler.advance(by_id[request_id], tokens)
        if not by_id[request_id].left:
            by_id[request_id].tokens.append(new_token)
    return scheduled


def test_sequences_are_admitted_in_their_order_while_there_are_pages():
    scheduler = scheduler_of(pages=4)
    for request_id, prompt in ((1, 30), (2, 40), (3, 2)):
        scheduler.add(sequence_of(request_id, [request_id] * prompt))
    compute(scheduler)
    assert [s.id for s in scheduler.running] == [1]  # 2 needs three pages, and 3 does not overtake it
    assert [s.id for s in scheduler.waiting] == [2, 3]


def test_at_most_max_sequences_run():
    scheduler = scheduler_of(pages=50, max_sequences=2)
    for request_id in range(4):
        scheduler.add(sequence_of(request_id, 3))
    compute(scheduler)
    assert [s.id for s in scheduler.running] == [0, 1]


def test_prefills_share_one_chunk_and_decoding_sequences_always_go():
    scheduler = scheduler_of(pages=50, chunk=32)
    scheduler.add(sequence_of(1, 2))
    assert compute(scheduler) == [(1, 2)]
    for request_id in (2, 3, 4):
        scheduler.add(sequence_of(request_id, [request_id] * 20))
    assert compute(scheduler) == [(1, 1), (2, 20), (3, 12)]
    assert compute(scheduler) == [(1, 1), (2, 1), (3, 8), (4, 20)]


def test_prompts_that_are_scored_take_a_quarter_of_a_chunk_together_and_leave_the_rest():
    scheduler = scheduler_of(pages=50, chunk=32)
    for request_id in (1, 2):
        scheduler.add(sequence_of(request_id, [request_id] * 6, score_prompt=True))
    scheduler.add(sequence_of(3, 40))
    assert compute(scheduler) == [(1, 6), (2, 2), (3, 24)]
    assert compute(scheduler) == [(1, 1), (2, 4), (3, 16)]


def test_neighbours_share_an_adapter():
    scheduler = scheduler_of(pages=50)
    for request_id, slot in ((1, 2), (2, -1), (3, 2), (4, -1)):
        scheduler.add(sequence_of(request_id, [request_id] * 3, slot))
    assert [request_id for request_id, _ in compute(scheduler)] == [2, 4, 1, 3]


def test_the_last_admitted_is_preempted_and_comes_back_first():
    scheduler = scheduler_of(pages=4)
    for request_id in (1, 2):
        scheduler.add(sequence_of(request_id, [request_id] * 31))
    compute(scheduler)
    for _ in range(3):
        compute(scheduler)
    assert [s.id for s in scheduler.running] == [1] and scheduler.preemptions == 1
    [preempted] = scheduler.waiting
    assert (preempted.id, preempted.pages, preempted.computed, preempted.published) == (2, [], 0, 0)
    assert len(preempted.tokens) > 31  # its answer so far is kept
    scheduler.remove(1, "cancelled")
    assert compute(scheduler)[0][0] == 2


def test_a_prompt_in_the_prefix_cache_is_not_prefilled_unless_all_hidden_states_are_needed():
    prompt = list(range(40))
    scheduler = scheduler_of(pages=50)
    scheduler.add(sequence_of(1, prompt))
    compute(scheduler)
    for request_id, how in ((2, {}), (3, {"embed": True}), (4, {"score_prompt": True})):
        scheduler.add(sequence_of(request_id, prompt, **how))
    scheduler.schedule()
    cached = {s.id: s.cached for s in scheduler.running}
    assert cached == {1: 0, 2: 2 * PAGE_TOKENS, 3: 0, 4: 0}


def test_removing_an_unknown_id_changes_nothing():
    scheduler = scheduler_of(pages=4)
    assert scheduler.remove(5, "cancelled") is None


@given(
    arrivals=st.lists(
        st.tuples(st.integers(1, 60), st.integers(-1, 2), st.booleans(), st.integers(0, 2)), min_size=1, max_size=12
    ),
    pages=st.integers(5, 12),
    chunk=st.sampled_from([16, 64]),
    most=st.integers(1, 5),
    removed=st.sets(st.integers(0, 11), max_size=4),
)
def test_no_page_is_lost_and_every_sequence_gets_through(arrivals, pages, chunk, most, removed):
    scheduler = scheduler_of(pages, max_sequences=most, chunk=chunk)
    done = set()
    for request_id, (prompt, slot, alike, key) in enumerate(arrivals):
        sequence = sequence_of(request_id, [0 if alike else request_id % 8] * prompt, slot)
        sequence.owner = f"key {key}", f"user {request_id}"
        scheduler.add(sequence)
    for steps in range(2000):
        for sequence in scheduler.running:
            if len(sequence.answer_behind(0)) >= 6:
                sequence.finish = "length"
                done.add(sequence.id)
        scheduler.retire()
        if steps == 3:
            done |= {i for i in removed if scheduler.remove(i, "cancelled") is not None}
        references = [page for s in scheduler.running for page in s.pages]
        assert len(set(references)) == scheduler.pool.held
        assert all(not s.pages for s in scheduler.waiting)
        if not (scheduler.running or scheduler.waiting):
            break
        compute(scheduler)
    assert done == set(range(len(arrivals)))
    assert scheduler.pool.held == 0 and scheduler.pool.available == pages


def test_a_sequence_that_cannot_get_pages_is_itself_preempted():
    scheduler = scheduler_of(pages=2)
    scheduler.add(sequence_of(1, 40))
    assert scheduler.schedule() == [] and scheduler.preemptions == 1
    assert scheduler.pool.held == 0


@pytest.mark.parametrize("left", [1, 17])
def test_the_last_token_is_computed_even_if_all_pages_are_cached(left):
    prompt = list(range(2 * PAGE_TOKENS + left - 1))
    scheduler = scheduler_of(pages=20)
    scheduler.add(sequence_of(1, prompt))
    compute(scheduler)
    scheduler.add(sequence_of(2, prompt))
    [count] = [one.tokens for one in scheduler.schedule() if one.sequence.id == 2]
    assert count == len(prompt) - (len(prompt) - 1) // PAGE_TOKENS * PAGE_TOKENS
