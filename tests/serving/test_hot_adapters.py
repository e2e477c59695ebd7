"""Adapters come from the shelf at first use and leave by least recent use, inside their budget."""

import threading

import pytest
import torch
from fakes import random_adapter
from waiting import wait_until

from kameleon.errors import AdapterError, AdapterNotFoundError, QueueFullError, WrongBaseError
from kameleon.serving import HotAdapters


@pytest.fixture
def size(tiny):
    for i in range(5):
        tiny.shelf.save(random_adapter(tiny.base, f"a{i}", seed=i))
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=1 << 30)
    hot.load("a0")
    return hot.bytes


def factors(hot, version):
    """The first layer's A of q, k and v."""
    return hot.bank.sides(0, "qkv")[version.slot].a.clone()


def names(hot):
    return [a.name for a in hot.state()]


def test_those_used_longest_ago_leave_and_pinned_ones_stay(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=3 * size)
    hot.pin("a0")
    for name in ("a1", "a2", "a1", "a3"):
        hot.load(name)
    assert sorted(names(hot)) == ["a0", "a1", "a3"]
    hot.unpin("a0")
    hot.load("a4")
    assert sorted(names(hot)) == ["a1", "a3", "a4"]
    assert hot.bytes <= hot.budget_bytes
    assert hot.names() == ["a0", "a1", "a2", "a3", "a4"]


def test_running_ones_stay_and_one_who_needs_room_waits_for_it(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=size)
    hot.load("a0")
    held = hot.hold("a0")
    assert hot.start(held)
    waiter = threading.Thread(target=hot.load, args=("a1",))
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive() and held.ready
    first_stay = held.residence
    late = hot.hold("a0")
    assert late is held and not hot.start(late)  # it makes room first
    hot.release(held, started=True)
    waiter.join(10)
    assert not waiter.is_alive()
    wait_until(lambda: late.ready)  # for who still waits it comes back, at once
    assert late.residence > first_stay + 1  # after a1's stay
    assert hot.start(late) and names(hot) == ["a0"]


@pytest.mark.parametrize("let_go", [HotAdapters.unload, HotAdapters.unpin])
def test_who_waits_for_room_gets_that_of_one_that_is_let_go_by_hand(tiny, size, let_go):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=2 * size)
    hot.pin("a0")
    held = hot.hold("a1")
    wait_until(lambda: hot.start(held))
    waiting = hot.hold("a2")
    wait_until(lambda: held.leaving)
    let_go(hot, "a0")
    wait_until(lambda: waiting.ready)
    assert sorted(names(hot)) == ["a1", "a2"]


def test_one_that_just_came_stays_until_a_request_had_its_turn_on_it(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=size)
    first, second = hot.hold("a0"), hot.hold("a1")
    wait_until(lambda: first.ready)
    threading.Event().wait(0.2)
    assert first.ready and not first.leaving and not second.ready
    assert hot.start(first)
    hot.release(first, started=True)
    wait_until(lambda: second.ready)


def test_nobody_waits_for_an_adapter_once_loading_has_ended(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=size)
    held = hot.hold("a0")
    wait_until(lambda: hot.start(held))
    told = []

    def load():
        with pytest.raises(QueueFullError, match="shutting down"):
            hot.load("a1")
        told.append(True)

    waiter = threading.Thread(target=load, daemon=True)
    waiter.start()
    wait_until(lambda: len(names(hot)) == 2)
    hot.close()
    waiter.join(10)
    load_later = threading.Thread(target=load, daemon=True)
    load_later.start()
    load_later.join(10)
    assert told == [True, True]


def test_a_name_removed_and_saved_again_is_another_adapter_though_its_number_is_the_same(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=9 * size)
    hot.load("a0")
    old = hot.hold("a0")
    tiny.shelf.remove("a0")
    other = random_adapter(tiny.base, "a0", seed=70)
    tiny.shelf.save(other)
    new = hot.hold("a0")
    wait_until(lambda: new.ready)
    assert (old.number, new.number) == (1, 1) and new is not old
    assert new.residence != old.residence
    assert not torch.equal(factors(hot, new), factors(hot, old))


def test_what_changes_on_disk_while_it_waits_to_be_read_is_read_as_it_is_then(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=size)
    running = hot.hold("a0")
    wait_until(lambda: hot.start(running))
    first, replaced, removed = (hot.hold(name) for name in ("a1", "a2", "a3"))  # read in turn, as there is room
    for name in ("a2", "a3"):
        tiny.shelf.remove(name)
    tiny.shelf.save(random_adapter(tiny.base, "a2", seed=71))
    for before, after in ((running, first), (first, replaced)):
        hot.release(before, started=True)
        wait_until(lambda version=after: hot.start(version))
    fresh = HotAdapters(tiny.base, tiny.shelf, budget_bytes=size)
    again = fresh.hold("a2")
    wait_until(lambda: again.ready)
    assert torch.equal(factors(hot, replaced), factors(fresh, again))
    hot.release(replaced, started=True)
    wait_until(lambda: removed.error)
    assert isinstance(removed.error, AdapterNotFoundError)


def test_adapters_are_still_loaded_after_memory_for_the_next_could_not_be_had(tiny, size, monkeypatch):
    hot, tried = HotAdapters(tiny.base, tiny.shelf, budget_bytes=9 * size), threading.Event()

    def no_memory():
        tried.set()
        return torch.zeros(1 << 60)

    monkeypatch.setattr(hot.bank, "prepare", no_memory)
    hot.load("a0")
    assert tried.wait(20)
    later = hot.hold("a1")
    wait_until(lambda: later.ready)


def test_a_new_version_replaces_the_old_when_nobody_holds_that(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=9 * size)
    hot.load("a0")
    old = hot.hold("a0")
    tiny.shelf.save(random_adapter(tiny.base, "a0", seed=7))
    hot.load("a0")
    assert [(a.version, a.current) for a in hot.state()] == [(1, False), (2, True)]
    hot.release(old)
    assert [(a.version, a.current) for a in hot.state()] == [(2, True)]


def test_a_value_goes_before_the_shelf_until_it_is_unloaded(tiny, size):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=2 * size)
    proof = hot.add(random_adapter(tiny.base, "fresh", seed=9))
    assert proof.live and "fresh" in hot.names()
    hot.load("a0")
    hot.load("a1")
    assert sorted(names(hot)) == ["a1", "fresh"]  # it has no file to come back from
    hot.unload("fresh")
    assert names(hot) == ["a1"]
    with pytest.raises(AdapterNotFoundError, match="not resident"):
        hot.unload("fresh")
    with pytest.raises(AdapterNotFoundError):
        hot.hold("fresh")


@pytest.mark.parametrize("name", ["fresh", "a0"])
def test_a_value_that_is_unloaded_while_it_is_asked_for_is_what_the_shelf_says_then(tiny, size, name, monkeypatch):
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=2 * size)
    hot.add(random_adapter(tiny.base, name, seed=9))
    found = hot._added

    def added(name):
        value = found(name)
        if value is not None:
            hot.unload(name)
        return value

    monkeypatch.setattr(hot, "_added", added)
    if name == "a0":
        hot.load(name)
        assert [a.version for a in hot.state()] == [1]
    else:
        with pytest.raises(AdapterNotFoundError):
            hot.load(name)


def test_what_cannot_be_loaded_is_told_and_leaves_no_trace(tiny, size, tmp_path):
    stranger = random_adapter(tiny.base, "stranger")
    card = type(stranger.card)(base_id="other", base_fingerprint="sha256:0")
    tiny.shelf.save(type(stranger)("stranger", stranger.modules, card))
    hot = HotAdapters(tiny.base, tiny.shelf, budget_bytes=9 * size)
    with pytest.raises(WrongBaseError):
        hot.load("stranger")
    with pytest.raises(AdapterError):
        hot.pin("stranger")
    broken = random_adapter(tiny.base, "broken")
    next(iter(broken.modules.values())).a[0, 0] = float("nan")
    tiny.shelf.save(broken)
    with pytest.raises(AdapterError, match=r"NaN|finite"):
        hot.load("broken")
    assert names(hot) == [] and not any(a.pinned for a in hot.state())
    hot.load("a1")
    assert names(hot) == ["a1"]
