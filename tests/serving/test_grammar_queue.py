"""Grammars are compiled beside the answers: a request without one never waits, and what nobody waits for ends."""

import json
import threading
from dataclasses import replace

import pytest
from serving.engines import Answer
from waiting import wait_until

from kameleon import Sampling
from kameleon.errors import QueueFullError, SettingError
from kameleon.generation import Request, compiling
from kameleon.generation.trial import TRIAL, Trial
from kameleon.serving import Client, Limits

LIMITS = Limits(kv_cache_bytes=1 << 21, adapter_bytes=1 << 20, max_compile_s=600.0, max_forms=4)
# More members than are allowed, which compile for many seconds.
LONG = json.dumps({"type": "object", "properties": {str(i): {} for i in range(5500)}}, separators=(",", ":"))


def ask(engine, key="", **wish):
    answer = Answer()
    request = Request((65,), sampling=Sampling(**{"max_tokens": 8, **wish}))
    answer.ticket = engine.submit(request, answer, Client(key))
    return answer


@pytest.fixture
def serve(serve, monkeypatch):
    monkeypatch.setattr("kameleon.generation.grammars._MOST_MEMBERS", 10_000)
    engines = []

    def start(**limits):
        engines.append(serve(replace(LIMITS, **limits)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close(0)
        assert engine.state().queued == 0


def compiling_now(engine, text):
    wait_until(lambda: TRIAL._form is not None and TRIAL._form.text == text)
    return TRIAL.pid


def test_a_request_without_a_form_is_answered_while_a_grammar_is_compiled(serve):
    engine = serve()
    long = ask(engine, json_schema=LONG)
    compiling_now(engine, LONG)
    for _ in range(3):
        assert len(ask(engine).wait().completion.tokens) == 8
    assert not long.ended.is_set() and engine.state().queued == 1


def test_a_request_that_leaves_ends_its_compilation_and_the_next_is_compiled(serve):
    engine = serve()
    long, next_one = ask(engine, json_schema=LONG), ask(engine, regex="[ab]{3}")
    pid = compiling_now(engine, LONG)
    engine.cancel(long.ticket)
    assert long.wait().completion.finish == "cancelled"
    assert len(next_one.wait().completion.text) == 3
    assert TRIAL.pid != pid


def test_a_request_that_leaves_takes_nothing_from_others_with_the_same_form(serve):
    engine = serve()
    first, second = ask(engine, json_schema=LONG), ask(engine, json_schema=LONG)
    pid = compiling_now(engine, LONG)
    engine.cancel(first.ticket)
    assert TRIAL.pid == pid and engine.state().queued == 1
    engine.cancel(second.ticket)
    assert TRIAL.pid != pid and engine.state().queued == 0
    assert [one.wait().completion.finish for one in (first, second)] == ["cancelled"] * 2


def test_forms_that_wait_are_bounded_for_each_key_and_for_all(serve):
    engine = serve()
    ask(engine, key="greedy", json_schema=LONG)
    compiling_now(engine, LONG)
    ask(engine, key="greedy", regex="a")
    with pytest.raises(QueueFullError, match="2 grammars wait") as full:
        ask(engine, key="greedy", regex="b")
    assert full.value.retry_after_s >= 1
    ask(engine, key="greedy", regex="a")  # the same form waits as one
    ask(engine, key="modest", regex="c")
    ask(engine, key="modest", regex="d")
    with pytest.raises(QueueFullError, match="4 grammars wait"):
        ask(engine, key="third", regex="e")
    ask(engine, key="third")  # without a form there is room


def test_a_key_with_many_forms_waits_behind_one_with_few(serve, monkeypatch):
    engine, order, real = serve(max_forms=8), [], Trial.check

    def check(self, form, *given, **named):
        order.append(form.text)
        return real(self, form, *given, **named)

    monkeypatch.setattr(Trial, "check", check)
    long = ask(engine, key="modest", json_schema=LONG)
    compiling_now(engine, LONG)
    many = [ask(engine, key="greedy", regex=f"a{{{i}}}") for i in range(1, 4)]
    few = ask(engine, key="new", regex="b")
    engine.cancel(long.ticket)
    assert all(one.wait().completion is not None for one in [*many, few])
    assert order[1:] == ["a{1}", "b", "a{2}", "a{3}"]


def test_a_form_beyond_the_limit_is_the_error_of_its_own_requests(serve):
    engine = serve(max_compile_s=0.05)
    bad = [ask(engine, json_schema=LONG) for _ in range(3)]
    good = ask(engine, regex="[ab]{3}")
    assert all(isinstance(one.wait().error, SettingError) for one in bad)
    assert "0.05 s" in str(bad[0].last.error)
    assert len(good.wait().completion.text) == 3


class Panic(BaseException):
    """As the library's: no Exception."""


def test_a_panic_of_the_library_is_the_error_of_its_own_request_and_the_next_is_compiled(serve, monkeypatch):
    engine, real = serve(), compiling.compiled

    def compiled(kind, text, words):
        if text == "a+":
            raise Panic("index out of bounds")
        return real(kind, text, words)

    monkeypatch.setattr(compiling, "compiled", compiled)
    assert "index out of bounds" in str(ask(engine, regex="a+").wait().error)
    assert len(ask(engine, regex="[ab]{2}").wait().completion.text) == 2


def test_many_answers_of_one_form_wait_for_one_compilation_in_a_thread_of_its_own(serve, monkeypatch):
    engine, threads, real = serve(), [], compiling.compiled

    def compiled(*given):
        threads.append(threading.current_thread().name)
        return real(*given)

    monkeypatch.setattr(compiling, "compiled", compiled)
    answers = [ask(engine, regex="[ab]{4}", temperature=1.0) for _ in range(64)]
    assert all(len(one.wait().completion.text) == 4 for one in answers)
    assert threads == ["kameleon-grammars"]


def test_an_engine_that_ends_ends_what_is_compiled(serve):
    engine = serve()
    long, other = ask(engine, json_schema=LONG), ask(engine, regex="a")
    pid = compiling_now(engine, LONG)
    engine.close(0)
    assert all(isinstance(one.wait().error, QueueFullError) for one in (long, other))
    wait_until(lambda: TRIAL.pid != pid)


def test_a_request_whose_time_is_over_waits_no_longer(serve):
    engine = serve(max_request_s=0.2)
    long = ask(engine, json_schema=LONG)
    assert isinstance(long.wait().error, QueueFullError)
    wait_until(lambda: TRIAL._form is None)
