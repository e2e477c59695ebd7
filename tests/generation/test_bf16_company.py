"""What requests get beside others in bf16 on the real SmolLM2, against what they get alone: measured, and printed."""

import pytest
import torch
from fakes import random_adapter

import kameleon
from kameleon import Sampling
from kameleon.generation import Request, generate
from kameleon.ops import can_multiply

NEAR_TIE = 0.125  # in log-probability: of logits near 20, bf16 knows eighths
TEXTS = (
    "The capital of Poland is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "List three things that a doctor asks a patient with a fever:\n1.",
    "In law, a contract is",
)
TOKENS = 48


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_mixed_batch_gives_each_request_what_it_gets_alone_but_for_near_ties(capsys):
    loaded = kameleon.load("smollm2", dtype=torch.bfloat16)
    base, bank = loaded.base, loaded.bank
    names = [None, *(f"a{i}" for i in range(5))]
    for seed, name in enumerate(names[1:]):
        adapter = random_adapter(base, name, seed, rank=(4, 8, 16, 16, 3)[seed], alpha=1.0)
        bank.add(adapter)
    wish = Sampling(max_tokens=TOKENS, logprobs=2)
    requests = [
        Request(tuple(loaded.encode_prompt(text, raw=True)), names[(i + j) % len(names)], wish)
        for i, text in enumerate(TEXTS)
        for j in range(3)
    ]
    together = generate(base, bank, requests)
    equal = total = 0
    gaps = []
    for request, beside in zip(requests, together, strict=True):
        (alone,) = generate(base, bank, [request])
        pairs = list(zip(alone.tokens, beside.tokens, strict=False))
        first = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
        equal, total = equal + first, total + len(alone.tokens)
        if first < len(pairs):
            (_, best), (_, second) = alone.scores[first].alternatives
            gaps.append(best - second)
    with capsys.disabled():
        print(f"\n{equal} of {total} tokens equal before the first difference; gaps there: {gaps}")
    assert total > 0.5 * TOKENS * len(requests)
    assert len({one.text for one in together}) > len(TEXTS)  # the adapters say different things
    assert equal >= 0.99 * total
    assert all(gap <= NEAR_TIE for gap in gaps)
    if can_multiply(torch.bfloat16):  # Kameleon's own products promise the bits
        assert equal == total
