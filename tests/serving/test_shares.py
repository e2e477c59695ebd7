"""A polite client beside hostile ones: how many steps of the engine it waits for its first token."""

import threading
from dataclasses import replace

import pytest
from serving.engines import LIMITS, ask, expected

from kameleon.errors import QueueFullError
from kameleon.serving import Client

MOST = 4  # places in the batch
FEW = 4  # steps: one that runs, and the prompt in half of each chunk
LETTER = {"logit_bias": ((65, 100.0),)}  # a token that is text at once


@pytest.fixture
def paced(monkeypatch):
    """Let an engine take steps one by one: the function that is returned takes one, and its answers are delivered."""
    may, stands = threading.Semaphore(0), threading.Semaphore(0)

    def pace(engine):
        real = engine._batch.step

        def step():
            stands.release()
            may.acquire()
            return real()

        monkeypatch.setattr(engine._batch, "step", step)

        def take():
            may.release()
            assert stands.acquire(timeout=20)

        return take

    yield pace
    may.release(10**6)


def steps_until_said(take, answer, most=60):
    for steps in range(1, most):
        take()
        if answer.text or answer.ended.is_set():
            return steps
    return most


HOSTILE = {
    "another user in each request": lambda i: Client("key 1", f"user {i}"),
    "two keys": lambda i: Client(f"key {i % 2}", f"user {i}"),
    "no keys, one user": lambda i: Client("", "x"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_many_long_requests_of_others_keep_a_key_from_its_first_token_for_a_few_steps(tiny, serve, paced, hostile):
    engine = serve(replace(LIMITS, max_batch=MOST, prefill_chunk_tokens=64, kv_cache_bytes=1 << 22))
    take = paced(engine)
    text = "so long a text that its prompt takes many steps " * 2
    others = [ask(engine, tiny, f"{i} {text}", client=HOSTILE[hostile](i), max_tokens=12) for i in range(8)]
    for _ in range(3):
        take()
    assert engine.state().running == MOST
    polite = ask(engine, tiny, "hi", client=Client("", "polite") if "no keys" in hostile else Client("key 9"), **LETTER)
    assert steps_until_said(take, polite) <= FEW
    assert engine.state().preemptions > 0
    late = ask(
        engine, tiny, "hi again", client=Client("", "late") if "no keys" in hostile else Client("key 8"), **LETTER
    )
    assert steps_until_said(take, late) <= FEW
    while not all(answer.ended.is_set() for answer in (polite, late, *others)):
        take()
    for i, answer in enumerate(others[:MOST]):  # those that were put off lost nothing
        got = answer.last.completion
        assert (got.tokens, got.text) == (expected(tiny, f"{i} {text}", max_tokens=12).tokens, answer.text)


def test_a_full_cache_of_one_key_makes_room_for_another(tiny, serve, paced):
    engine = serve(replace(LIMITS, max_batch=64, kv_cache_bytes=5 << 17))
    take = paced(engine)
    others = [ask(engine, tiny, f"question {i} " * 8, client=Client("key 1"), max_tokens=60) for i in range(8)]
    while not engine.state().preemptions:
        take()
    assert engine._batch.waiting
    polite = ask(engine, tiny, "hi", client=Client("key 2"), **LETTER)
    assert steps_until_said(take, polite) <= FEW
    while not all(answer.ended.is_set() for answer in (polite, *others)):
        take()
    assert all(answer.last.completion is not None for answer in others)


def test_a_queue_that_one_key_fills_has_a_place_for_another(tiny, serve, paced):
    engine = serve(replace(LIMITS, max_batch=1, max_queue=4))
    paced(engine)
    first = ask(engine, tiny, "hello", client=Client("key 1"))
    while not engine.state().running:
        pass
    hostile = [ask(engine, tiny, "hello", client=Client("key 1", f"user {i}")) for i in range(4)]
    polite = [ask(engine, tiny, "hello", client=Client("key 2"))]
    assert isinstance(hostile[3].last.error, QueueFullError) and not hostile[2].ended.is_set()
    for key in ("key 1", "key 2"):
        if key == "key 2":
            polite.append(ask(engine, tiny, "hello", client=Client(key)))  # now each has half of the queue
        with pytest.raises(QueueFullError):
            ask(engine, tiny, "hello", client=Client(key))
    assert [answer.ended.is_set() for answer in (first, *hostile, *polite)] == [False] * 3 + [True] * 2 + [False] * 2
