"""Forms of answers are tried in a process of their own, within limits, and nothing is left of it."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import wait_until

from kameleon import Sampling
from kameleon.errors import KameleonError, SettingError
from kameleon.generation import compiling
from kameleon.generation.trial import Trial
from kameleon.generation.vocabulary import Words
from kameleon.settings import Form

SPELLED = ([bytes([one]) for one in range(256)] + [b"\xff<end>"], [256], [256])
SMALL = Form("regex", "a+")
# It compiles for many seconds.
LONG = Form("json_schema", json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(8000)}}))


@pytest.fixture
def trial():
    return Trial()


def check(trial, form, cpu_s=60.0):
    trial.check(form, form.text, SPELLED, cpu_s=cpu_s)


def is_there(pid):
    return Path(f"/proc/{pid}").exists()


def test_a_form_that_takes_too_long_ends_its_process_and_the_next_has_another(trial):
    check(trial, SMALL)
    first = trial.pid
    with pytest.raises(SettingError, match=r"takes more than 0\.05 s of computing"):
        check(trial, LONG, cpu_s=0.05)
    assert not is_there(first)
    check(trial, SMALL)
    assert trial.pid != first


def test_time_counts_for_each_form_alone(trial):
    for _ in range(20):
        check(trial, Form("regex", "(a|b|c|d){500}x"), cpu_s=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_a_form_that_takes_too_much_memory_is_refused(trial, monkeypatch):
    monkeypatch.setattr("kameleon.generation.trial._MEMORY_BYTES", 2_000_000)
    with pytest.raises(SettingError, match="takes more than 2 MB of memory"):
        check(trial, LONG)


def test_a_try_is_ended_from_another_thread(trial):
    ended = []

    def run():
        with pytest.raises(KameleonError, match="was ended"):
            check(trial, LONG)
        ended.append(trial.pid)

    check(trial, SMALL)
    pid, thread = trial.pid, threading.Thread(target=run)
    thread.start()
    wait_until(lambda: trial._form == LONG)
    trial.end(SMALL)  # which does not run
    assert trial.pid == pid
    trial.end(LONG)
    thread.join(20)
    assert ended == [None] and not is_there(pid)


def test_the_process_ends_with_what_holds_it(trial):
    check(trial, SMALL)
    pid = trial.pid
    other = Trial()
    check(other, SMALL)
    gone = other.pid
    del other
    assert is_there(pid) and not is_there(gone)


def test_the_process_ends_when_nobody_writes_to_it_any_more():
    program = [sys.executable, "-P", compiling.__file__]
    assert subprocess.run(program, input=b"", timeout=60, check=False).returncode == 0


def test_the_program_of_the_process_imports_neither_torch_nor_kameleon():
    show = f"import runpy, sys; runpy.run_path({compiling.__file__!r}, run_name='__main__'); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-P", "-c", show], input=b"", capture_output=True, timeout=60, check=True)
    assert b"llguidance" in said.stdout
    assert not any(name in said.stdout for name in (b"'torch'", b"'kameleon'", b"'numpy'"))


def test_every_answer_with_the_same_form_has_the_grammar_that_was_compiled_once(tiny, monkeypatch):
    tried = []
    monkeypatch.setattr(Trial, "check", lambda self, form, *given, **named: tried.append(form))
    answers = tiny.generate(["hello"] * 20, sampling=Sampling(regex="[ab]{5}", temperature=1.0))
    assert len(tried) == 1 and all(len(answer.text) == 5 for answer in answers)
    tiny.generate(["hello"], sampling=Sampling(regex="[ab]{5}"))
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"regex": "a" * 64_001}, "regex has 64,001 bytes; 64,000 is the most"),
        ({"json_schema": json.dumps({"const": "ä" * 40_000}, ensure_ascii=False)}, "json_schema has 80,013 bytes"),
        ({"json_schema": json.dumps({"properties": {str(i): {} for i in range(1001)}})}, "object of 1,001 memb"),
    ],
    ids=["expression", "schema", "object"],
)
def test_a_form_that_is_too_large_is_refused_without_a_try(tiny, wish, told, monkeypatch):
    monkeypatch.setattr(Trial, "check", lambda *given, **named: pytest.fail("it was tried"))
    with pytest.raises(SettingError, match=told):
        tiny.generate(["hello"], sampling=Sampling(**wish))


def test_the_masks_of_a_long_demanded_text_cost_the_same_however_long_it_is(tiny, monkeypatch):
    longest, real = [], Words._encode

    def encode(self, text):
        longest.append(len(text))
        return real(self, text)

    monkeypatch.setattr(Words, "_encode", encode)
    text = "ä" * 3000
    got = tiny.generate(["hello"], sampling=Sampling(regex=text, max_tokens=20))[0]
    assert text.startswith(got.text) and len(got.text) == 10
    assert max(longest) <= 512
