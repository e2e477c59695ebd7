"""The engine under many threads: every answer comes, whole, from its own adapter; who cannot be served is told."""

import itertools
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from serving.engines import LIMITS, Answer, ask, expected
from waiting import wait_until

from kameleon import Sampling
from kameleon.errors import (
    AdapterFileError,
    AdapterNotFoundError,
    KameleonError,
    QueueFullError,
    RequestFaultError,
    SettingError,
)
from kameleon.generation import Chooser, Request, generate
from kameleon.serving import Client, HotAdapters

# The full form: KAMELEON_ANSWERS=100000 pytest -m slow tests/serving/test_engine.py
ANSWERS = int(os.environ.get("KAMELEON_ANSWERS", "20000"))


def shelve(tiny, count):
    for i in range(count):
        tiny.shelf.save(random_adapter(tiny.base, f"a{i}", seed=i, rank=2 + i % 7))


def test_answers_to_many_threads_are_those_that_each_request_gets_alone(tiny, serve):
    shelve(tiny, 6)
    engine = serve()
    wanted = [(f"question {i % 5}", [None, *(f"a{j}" for j in range(6))][i % 7]) for i in range(42)]
    answers: list = [None] * len(wanted)

    def client(k):
        for i in range(k, len(wanted), 6):
            answers[i] = ask(engine, tiny, *wanted[i], client=Client(user=f"user {k}"))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = {}
    for (text, adapter), answer in zip(wanted, answers, strict=True):
        got = answer.wait().completion
        if (text, adapter) not in alone:
            alone[text, adapter] = expected(tiny, text, adapter)
        assert (got.tokens, answer.text) == (alone[text, adapter].tokens, got.text)
    state = engine.state()
    assert (state.queued, state.running, state.cache_used_tokens, state.alive) == (0, 0, 0, True)
    assert sum(c.requests for c in state.counters.values()) == 42
    assert state.counters["a0"].completion_tokens == sum(
        len(a.last.completion.tokens) for (_, name), a in zip(wanted, answers, strict=True) if name == "a0"
    )
    assert state.cache_found_tokens > 0


def test_a_new_version_takes_over_for_new_requests_while_running_ones_finish_on_the_old(tiny, serve):
    shelve(tiny, 1)
    engine = serve()
    old = expected(tiny, "hello", "a0", max_tokens=60)
    running = ask(engine, tiny, "hello", "a0", max_tokens=60)
    wait_until(lambda: running.text or running.ended.is_set())
    other = random_adapter(tiny.base, "a0", seed=99, rank=4)
    tiny.shelf.save(other)
    late = ask(engine, tiny, "hello", "a0", max_tokens=20)
    assert running.wait().completion.tokens == old.tokens
    tiny.load_adapter(other)
    new = expected(tiny, "hello", "a0", max_tokens=20)
    assert late.wait().completion.tokens == new.tokens != old.tokens[:20]
    assert [a.version for a in engine.state().adapters] == [2]


def test_an_adapter_deleted_while_in_use_finishes_its_answers_and_is_then_unknown(tiny, serve):
    shelve(tiny, 1)
    engine = serve()
    old = expected(tiny, "hello", "a0", max_tokens=40)
    running = ask(engine, tiny, "hello", "a0", max_tokens=40)
    wait_until(lambda: running.text or running.ended.is_set())
    tiny.shelf.remove("a0")
    with pytest.raises(AdapterNotFoundError, match="a0"):
        ask(engine, tiny, "hello", "a0")
    assert running.wait().completion.tokens == old.tokens


def test_a_broken_adapter_is_an_error_for_its_requests_alone(tiny, serve):
    shelve(tiny, 2)
    file = tiny.shelf.path("a0") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    engine = serve()
    broken, fine = ask(engine, tiny, "hello", "a0"), ask(engine, tiny, "hello", "a1")
    assert isinstance(broken.wait().error, AdapterFileError)
    assert fine.wait().completion.tokens == expected(tiny, "hello", "a1").tokens
    tiny.shelf.save(random_adapter(tiny.base, "a0", seed=0))
    assert ask(engine, tiny, "hello", "a0").wait().completion is not None


@pytest.fixture
def hold_up(monkeypatch):
    """Let an engine compute nothing until the event that it returns is set."""

    may_go_on = threading.Event()

    def hold(engine):
        step = engine._batch.step
        monkeypatch.setattr(engine._batch, "step", lambda: may_go_on.wait(60) and step())
        return may_go_on

    yield hold
    may_go_on.set()


def test_cancelling_frees_everything_and_leaves_the_others_alone(tiny, serve, hold_up):
    engine = serve(replace(LIMITS, max_batch=2))
    may_go_on = hold_up(engine)
    answers = [ask(engine, tiny, f"question {i}", max_tokens=100) for i in range(5)]
    for i in (0, 2, 4):
        engine.cancel(answers[i].ticket)
    may_go_on.set()
    for i, answer in enumerate(answers):
        got = answer.wait().completion
        whole = expected(tiny, f"question {i}", max_tokens=100)
        assert got.tokens == whole.tokens[: len(got.tokens)]
        assert got.finish == "cancelled" if i % 2 == 0 else got.tokens == whole.tokens
    engine.cancel(answers[1].ticket)
    assert engine.state().cache_used_tokens == 0


def test_who_is_cancelled_in_the_queue_leaves_a_place_at_once(tiny, serve, hold_up):
    engine = serve(replace(LIMITS, max_batch=1, max_queue=2))
    may_go_on = hold_up(engine)
    running = ask(engine, tiny, "hello")
    wait_until(lambda: engine.state().running)
    first, second = (ask(engine, tiny, f"question {i}") for i in range(2))
    with pytest.raises(QueueFullError):
        ask(engine, tiny, "hello")
    engine.cancel(first.ticket)
    assert first.ended.is_set() and first.last.completion.finish == "cancelled"
    late = ask(engine, tiny, "hello")
    may_go_on.set()
    assert all(answer.wait().completion.finish != "cancelled" for answer in (running, second, late))


def test_a_fault_in_one_request_is_its_error_and_the_log_has_the_cause(tiny, serve, caplog, monkeypatch):
    engine = serve()
    prompt, broken = tiny.encode_prompt("x"), Answer()
    choose = Chooser.choose

    def faulty(self, logits):
        return 1 / 0 if self.sampling.temperature == 1.0 else choose(self, logits)

    monkeypatch.setattr(Chooser, "choose", faulty)
    engine.submit(Request(prompt, None, Sampling(temperature=1.0)), broken)
    fine = ask(engine, tiny, "hello")
    assert isinstance(broken.wait().error, RequestFaultError)
    assert fine.wait().completion.tokens == expected(tiny, "hello").tokens
    assert "division by zero" in caplog.text and "Traceback" in caplog.text and engine.state().alive


@pytest.mark.parametrize("error", [ConnectionResetError, SystemExit])
def test_a_listener_that_breaks_is_cancelled(tiny, serve, error):
    engine = serve()

    def gone(piece):
        raise error

    engine.submit(Request(tiny.encode_prompt("x"), None, Sampling(max_tokens=200)), gone)
    assert ask(engine, tiny, "hello").wait().completion is not None
    wait_until(lambda: not engine.state().running)


def test_a_full_queue_says_when_to_come_back_and_time_limits_hold(tiny, serve, hold_up):
    engine = serve(replace(LIMITS, max_batch=1, max_queue=2))
    may_go_on = hold_up(engine)
    running = ask(engine, tiny, "hello", max_tokens=200)
    wait_until(lambda: engine.state().running)
    waiting = [ask(engine, tiny, "hello") for _ in range(2)]
    with pytest.raises(QueueFullError) as caught:
        ask(engine, tiny, "hello")
    assert caught.value.retry_after_s >= 1
    engine.limits = replace(engine.limits, max_request_s=1e-9)  # only now, or they might never have come so far
    may_go_on.set()
    assert running.wait().completion.finish == "length" and len(running.last.completion.tokens) < 200
    assert all(isinstance(answer.wait().error, QueueFullError) for answer in waiting)


def test_what_can_never_be_answered_is_refused_by_submit(tiny, serve):
    engine = serve()
    with pytest.raises(AdapterNotFoundError, match="nobody"):
        ask(engine, tiny, "hello", "nobody")
    with pytest.raises(SettingError, match="maximum context length is 256 tokens"):
        ask(engine, tiny, "a" * 300)
    assert isinstance(ask(engine, tiny, "hello", regex="(").wait().error, SettingError)


def test_embeddings_wait_their_turn_and_differ_by_adapter(tiny, serve):
    shelve(tiny, 1)
    engine = serve()
    tokens = tiny.encode_prompt("hello")
    plain, adapted = engine.embed(tokens), engine.embed(tokens, "a0")
    assert plain.shape == (tiny.base.config.hidden_size,) and not torch.equal(plain, adapted)
    assert torch.equal(plain, engine.embed(tokens))


def test_closing_drains_what_runs_and_refuses_what_comes(tiny, serve):
    engine = serve()
    answer = ask(engine, tiny, "hello", max_tokens=50)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert answer.wait().completion.tokens == expected(tiny, "hello", max_tokens=50).tokens
    closing.join(20)
    with pytest.raises(QueueFullError, match="shutting down"):
        ask(engine, tiny, "hello")


def test_a_crash_tells_all_that_wait_and_the_owner_of_the_engine(tiny, serve, monkeypatch):
    failures = []
    engine = serve(on_failure=failures.append)
    monkeypatch.setattr(engine._batch, "step", lambda: 1 / 0)
    answer = ask(engine, tiny, "hello")
    assert "division by zero" in str(answer.wait().error)
    with pytest.raises(KameleonError, match="failed"):
        ask(engine, tiny, "hello")
    engine.close(0)
    assert isinstance(failures[0], ZeroDivisionError) and not engine.state().alive


def shelve_marked_adapters(tiny, prompt, count):
    """Put `count` adapters on the shelf, each of which answers `prompt` with other tokens; returns these by name."""
    marks = {}
    for seed in itertools.count():
        name = f"a{len(marks)}"
        adapter = random_adapter(tiny.base, name, seed=seed, rank=2)
        tiny.bank.add(adapter)
        (said,) = generate(tiny.base, tiny.bank, [Request(prompt, name, Sampling(max_tokens=5))])
        tiny.bank.remove(name)
        if said.tokens and said.tokens not in marks.values():  # a marker of its own
            marks[name] = said.tokens
            tiny.shelf.save(adapter)
        if len(marks) == count:
            return marks


@pytest.mark.slow
@pytest.mark.timeout(120 + ANSWERS // 100)
def test_no_answer_comes_from_a_wrong_adapter_while_a_thousand_share_little_memory(tiny, serve):
    """Each adapter answers with its own marker; memory holds one in twenty, and they are replaced meanwhile."""
    count, each = 1000, ANSWERS
    prompt = tiny.encode_prompt("Who is it that answers this, and whose pages are they?")  # more than a page
    marks = shelve_marked_adapters(tiny, prompt, count)
    alone = HotAdapters(tiny.base, tiny.shelf)
    alone.add(tiny.shelf.load("a0"))
    budget = count // 20 * alone.bytes
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=budget)
    engine = serve(replace(LIMITS, max_queue=100_000, adapter_bytes=budget), adapters=hot)
    wish, wrong, left = Sampling(max_tokens=5), [], threading.Semaphore(0)
    torch.manual_seed(0)
    ranks = torch.distributions.Pareto(1.0, 0.8).sample((each,)).long().clamp(max=count) - 1

    def check(name):
        def on_piece(piece):
            if piece.completion is not None or piece.error is not None:
                if piece.error is not None or piece.completion.tokens != marks[name]:
                    wrong.append((name, piece))
                left.release()

        return on_piece

    most = 0
    begun = time.monotonic()
    for i, rank in enumerate(ranks.tolist()):
        name = f"a{rank}"
        if i % 500 == 0:
            tiny.shelf.save(tiny.shelf.load(name))  # another version with the same marker
        engine.submit(Request(prompt, name, wish), check(name))
        if i >= 128:
            assert left.acquire(timeout=60)
        most = max(most, engine.adapters.bytes)
    for _ in range(128):
        assert left.acquire(timeout=60)
    print(f"\n{each:,} answers checked in {time.monotonic() - begun:.0f} s, {len(wrong)} wrong")
    assert wrong == []
    assert engine.state().cache_found_tokens > each
    assert budget / 2 < most <= budget
