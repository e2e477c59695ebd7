"""What goes wrong with one request is its error: the others get what they get alone, and no page is lost."""

import pytest
import torch
from generation.batches import add, batch_of
from tiny import save_base

import kameleon
from kameleon import Sampling
from kameleon.errors import RequestFaultError, SettingError
from kameleon.generation import Request, step
from kameleon.generation.sequence import Sequence
from kameleon.generation.text import TextStream

VICTIM = tuple(range(50, 80))
OTHERS = [Request(tuple(range(i, i + 20)), None, Sampling(max_tokens=8)) for i in (1, 90, 130)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return kameleon.load(str(folder), dtype=torch.float32)


class PanicException(BaseException):
    """As the grammars' library raises it; it is no Exception."""


def third_call(raised):
    """A function that raises at its third call, and before it does what it stands for."""
    calls = []

    def call(real, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise raised
        return real(*args, **kwargs)

    return call


class Faulty:
    """Something of a request whose method of that name fails at the third call."""

    def __init__(self, real, name, raised):
        self._real, self._name, self._call = real, name, third_call(raised)

    def __getattr__(self, name):
        found = getattr(self._real, name)
        return found if name != self._name else lambda *args, **kwargs: self._call(found, *args, **kwargs)


def outcome(loaded, *, planted=None, **fields):
    """The last pieces of the victim and of the others; `planted` changes the victim's sequence."""
    batch = batch_of(loaded, prefill_chunk_tokens=16)
    numbers = [add(batch, request, -1) for request in OTHERS]
    fields = {"sampling": Sampling(max_tokens=8, temperature=1.0, seed=1), **fields}
    victim = add(batch, Request(VICTIM, **fields), -1)
    if planted is not None:
        planted(batch._scheduler.waiting[-1])
    last = {}
    while not batch.idle:
        last |= {piece.request: piece for piece in batch.step()}
    assert batch.pool.held == 0
    return last.pop(victim, None), [last[number].completion for number in numbers]


def fails_at(part, name, raised):
    def plant(sequence):
        setattr(sequence, part, Faulty(getattr(sequence, part), name, raised))

    return plant


@pytest.mark.parametrize("raised", [RuntimeError("boom"), PanicException("boom"), MemoryError("boom")], ids=repr)
@pytest.mark.parametrize(("part", "name"), [("chooser", "choose"), ("stream", "take")])
def test_a_fault_in_choosing_or_telling_a_token_is_the_error_of_that_request(loaded, part, name, raised):
    _, alone = outcome(loaded)
    victim, others = outcome(loaded, planted=fails_at(part, name, raised))
    assert isinstance(victim.error, RequestFaultError) and victim.error.__cause__ is raised
    assert others == alone


def test_a_panic_of_a_grammar_is_the_error_of_that_request(loaded):
    def plant(sequence):
        sequence.chooser._constraint = Faulty(sequence.chooser._constraint, "take", PanicException("boom"))

    _, alone = outcome(loaded)
    victim, others = outcome(loaded, planted=plant, sampling=Sampling(max_tokens=8, regex="[a-z]{9}"))
    assert isinstance(victim.error, RequestFaultError) and others == alone


@pytest.mark.parametrize("wish", ["embed", "score_prompt"])
def test_a_fault_in_sums_and_scores_is_the_error_of_that_request(loaded, monkeypatch, wish):
    def broken(*args, **kwargs):
        raise ZeroDivisionError

    _, alone = outcome(loaded)
    monkeypatch.setattr(Sequence, "add_hidden", broken)
    monkeypatch.setattr(step, "scores_of", broken)
    victim, others = outcome(loaded, **{wish: True})
    assert isinstance(victim.error, RequestFaultError) and others == alone


def test_an_error_on_purpose_stays_what_it_is(loaded):
    error = SettingError("no token can follow")
    victim, _ = outcome(loaded, planted=fails_at("chooser", "choose", error))
    assert victim.error is error


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_who_stops_the_program_is_not_held_up(loaded, raised):
    with pytest.raises(raised):
        outcome(loaded, planted=fails_at("chooser", "choose", raised()))


def test_a_fault_of_the_shared_pass_is_no_error_of_one_request(loaded, monkeypatch):
    monkeypatch.setattr(loaded.base.decoder, "finish", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        outcome(loaded)


def test_a_caller_in_python_sees_the_cause(loaded, monkeypatch):
    monkeypatch.setattr(TextStream, "take", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(RequestFaultError, match="division by zero") as caught:
        loaded.generate("hello")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("token", [1.0, "1", None])
def test_a_prompt_of_anything_but_token_numbers_is_refused(loaded, token):
    with pytest.raises(SettingError, match=f"token {token!r} is not one"):
        batch_of(loaded).check(Request((5, token)))


def test_whole_numbers_as_biases_are_taken(loaded):
    wish = Sampling(max_tokens=3, logit_bias=((65, 100), (66, -100)))
    assert set(loaded.generate(["hello"], sampling=wish)[0].tokens) == {65}
