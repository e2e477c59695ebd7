"""A batch that requests join and leave: each answer is the one its request gets alone, however little room there is."""

import pytest
import torch
from fakes import random_adapter
from generation.batches import add, batch_of, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import save_base

import kameleon
from kameleon import Sampling
from kameleon.errors import SettingError
from kameleon.generation import PagePool, Request
from kameleon.ops import PAGE_TOKENS

SHARED = tuple(range(40, 75))  # a prompt's beginning: two full pages and a bit


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    loaded = kameleon.load(str(folder), dtype=torch.float32)
    for seed, rank in enumerate((2, 5, 8)):
        loaded.bank.add(random_adapter(loaded.base, f"a{seed}", seed, rank))
    return loaded


def alone(loaded, request, slot):
    batch = batch_of(loaded)
    number = add(batch, request, slot)
    return run(batch)[number]


REQUESTS = st.builds(
    lambda shared, own, tokens, slot: (Request(SHARED[:shared] + own, None, Sampling(max_tokens=tokens)), slot),
    st.sampled_from([0, 20, 35]),
    st.lists(st.integers(0, 255), min_size=1, max_size=30).map(tuple),
    st.integers(1, 12),
    st.integers(-1, 2),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(st.tuples(REQUESTS, st.integers(0, 4)), min_size=1, max_size=7),
    pages=st.integers(6, 16),
    chunk=st.sampled_from([16, 256]),
    most=st.integers(1, 6),
    cancelled=st.sets(st.integers(1, 7), max_size=2),
)
def test_every_answer_is_the_one_alone_while_others_arrive_are_cancelled_or_preempted(
    loaded, arrivals, pages, chunk, most, cancelled
):
    batch = batch_of(loaded, pages, max_sequences=most, prefill_chunk_tokens=chunk)
    asked, done = {}, {}
    for number, ((request, slot), steps_before) in enumerate(arrivals, 1):
        for _ in range(steps_before):
            done |= {p.request: p.completion for p in batch.step() if p.completion}
        batch.add(request, slot, request_id=number)
        asked[number] = request, slot
    for number in cancelled:
        batch.end(number)
    done |= run(batch)
    assert batch.pool.held == 0
    for number, (request, slot) in asked.items():
        expected, got = alone(loaded, request, slot), done[number]
        if got.finish == "cancelled":
            assert number in cancelled
            assert expected.tokens[: len(got.tokens)] == got.tokens
        else:
            assert (got.tokens, got.text, got.finish) == (expected.tokens, expected.text, expected.finish)


def test_a_full_cache_preempts_requests_and_loses_nothing(loaded):
    requests = [Request(tuple(range(i, i + 30)), None, Sampling(max_tokens=40)) for i in range(4)]
    batch = batch_of(loaded, pages=9)
    numbers = [add(batch, request, i - 1) for i, request in enumerate(requests)]
    done = run(batch)
    assert batch.preemptions > 0
    for number, (i, request) in zip(numbers, enumerate(requests), strict=True):
        assert done[number].tokens == alone(loaded, request, i - 1).tokens


def test_a_long_prompt_does_not_stall_those_who_write(loaded):
    batch = batch_of(loaded, prefill_chunk_tokens=16)
    writer = add(batch, Request((5, 6, 7), None, Sampling(max_tokens=30, logprobs=0)), -1)
    batch.step()
    add(batch, Request(tuple(range(100)), None, Sampling(max_tokens=1)), 0)
    written = 0
    for _ in range(6):  # the long prompt takes seven steps
        written += sum(len(p.tokens) for p in batch.step() if p.request == writer)
    assert batch.running == 2
    assert written >= 4  # some bytes wait for the rest of a character


def test_a_prompt_seen_before_is_not_computed_again_but_never_across_adapters(loaded):
    batch = batch_of(loaded)
    prompt = (*SHARED, 1, 2, 3)

    def cached(slot, key=None):
        number = add(batch, Request(prompt, None, Sampling(max_tokens=2)), slot, prefix_key=key)
        got = run(batch)[number]
        assert got.tokens == alone(loaded, Request(prompt, None, Sampling(max_tokens=2)), slot).tokens
        return got.cached_tokens

    assert [cached(0), cached(0)] == [0, 2 * PAGE_TOKENS]
    assert [cached(1), cached(-1)] == [0, 0]
    assert [cached(1), cached(-1)] == [2 * PAGE_TOKENS] * 2
    assert cached(0, key="another version in this slot") == 0


def test_pages_are_shared_found_again_and_evicted_last_page_first(loaded):
    pool = PagePool(loaded.base.config, 3, torch.float32)
    tokens = list(range(2 * PAGE_TOKENS + 1))
    first, second = pool.take(), pool.take()
    _, root = pool.find("a", tokens)
    branch = pool.publish(root, tokens[:PAGE_TOKENS], first)
    pool.publish(branch, tokens[PAGE_TOKENS : 2 * PAGE_TOKENS], second)
    assert pool.find("a", tokens)[0] == [first, second]
    assert pool.find("b", tokens)[0] == []
    pool.release([first, second])
    assert pool.held == 2
    pool.release([first, second])
    assert (pool.held, pool.published, pool.available) == (0, 2, 3)
    assert pool.find("a", tokens[:-1])[0] == [first]  # the last token must be computed
    pool.release([first])
    pool.take()
    assert pool.take() == second
    assert pool.find("a", tokens)[0] == [first]
    assert pool.take() is None


def test_requests_that_can_never_be_answered_are_refused(loaded):
    batch = batch_of(loaded, pages=4)
    with pytest.raises(SettingError, match=r"maximum context length is 64 tokens.*more than the cache holds"):
        add(batch, Request((1,), None, Sampling(max_tokens=80)), -1)
    with pytest.raises(SettingError, match="token 999 is not one"):
        add(batch, Request((999,), None, Sampling(max_tokens=2)), -1)
    with pytest.raises(SettingError, match="token 999 is not one"):
        add(batch, Request((1,), None, Sampling(max_tokens=2, logit_bias=((999, 1.0),))), -1)


def test_an_embedding_is_the_mean_of_the_final_hidden_states(loaded):
    from kameleon.ops import Segments

    batch = batch_of(loaded, prefill_chunk_tokens=16)
    tokens = tuple(range(50))
    number = add(batch, Request(tokens, embed=True), 1)
    got = run(batch)[number]
    with torch.inference_mode():
        hidden = loaded.base.decoder.hidden(torch.tensor(tokens), Segments((50,), (1,)), loaded.bank)
    torch.testing.assert_close(got.embedding, hidden.mean(0), rtol=1e-4, atol=1e-4)
    assert (got.text, got.tokens, got.prompt_tokens) == ("", (), 50)


@pytest.mark.parametrize("wish", [{"embed": True}, {"score_prompt": True}, {}], ids=str)
def test_what_a_broken_adapter_turns_into_nan_is_an_error_not_an_answer(tiny, wish):
    slot = tiny.bank.add(random_adapter(tiny.base, "broken", alpha=1e38))
    batch = batch_of(tiny, prefill_chunk_tokens=16)
    add(batch, Request(SHARED, "broken", Sampling(max_tokens=3), **wish), slot)
    fine = add(batch, Request(SHARED, None, Sampling(max_tokens=3), **wish), -1)
    last = {}
    while not batch.idle:
        last |= {piece.request: piece for piece in batch.step()}
    broken = [piece for number, piece in last.items() if number != fine]
    assert [str(piece.error) for piece in broken] == [
        "adapter 'broken' turns what is computed into NaN or infinity; it is broken"
    ]
    assert last[fine].completion is not None and batch.pool.held == 0
