"""Not one bit of what a request gets depends on the others, wherever the chunks of its prompt end."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from generation.batches import add, batch_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_base

import kameleon
from kameleon import Sampling
from kameleon.generation import Request
from kameleon.generation.sampling import scores_of
from kameleon.ops import can_multiply

PROMPT = tuple((7 * i) % 250 for i in range(90))
WISHES = {
    "embedding": {"embed": True},
    "prompt scores": {"score_prompt": True, "sampling": Sampling(max_tokens=0, logprobs=2)},
    "answer": {"sampling": Sampling(max_tokens=5, logprobs=2)},
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    loaded = kameleon.load(str(folder), dtype=torch.float32)
    red = random_adapter(loaded.base, "red")
    shifted = {name: replace(f, b_bias=torch.full((len(f.b),), 0.02)) for name, f in red.modules.items()}
    loaded.bank.add(red)
    loaded.bank.add(replace(red, name="shifted", modules=shifted))  # it does not run through all layers in one call
    return loaded


def bits(loaded, wish, slot, company=(), chunk=256):
    """All that comes of the request, among others that were there before it."""
    batch = batch_of(loaded, pages=100, prefill_chunk_tokens=chunk)
    for seed, (length, tokens) in enumerate(company):
        prompt = tuple((seed + 5 * i) % 250 for i in range(length))
        add(batch, Request(prompt, None, Sampling(max_tokens=tokens)), seed % 3 - 1)
    if company:
        batch.step()
    number = add(batch, Request(PROMPT, **WISHES[wish]), slot)
    done = run(batch)[number]
    return done.embedding.tolist() if wish == "embedding" else (done.tokens, done.scores, done.prompt_scores)


@pytest.mark.skipif(not can_multiply(torch.float32), reason="torch's products do not have the same bits in all chunks")
@pytest.mark.parametrize("wish", WISHES)
@settings(max_examples=6, deadline=None)
@given(
    company=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 8)), max_size=3),
    chunk=st.sampled_from([16, 33, 64, 256]),
    slot=st.sampled_from([-1, 0]),
)
def test_a_request_gets_the_same_bits_alone_and_in_company(loaded, wish, company, chunk, slot):
    assert bits(loaded, wish, slot, company, chunk) == bits(loaded, wish, slot)


def test_scores_of_a_position_do_not_depend_on_the_others_that_are_scored_with_it():
    logits, tokens = torch.randn(6, 49152, generator=torch.Generator().manual_seed(1)) * 3, [5, 6, 7, 8, 9, 10]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = scores_of(logits, tokens, alternatives=2)
        alone = [scores_of(logits[i : i + 1], tokens[i : i + 1], alternatives=2)[0] for i in range(6)]
    finally:
        torch.set_num_threads(threads)
    assert alone == together
