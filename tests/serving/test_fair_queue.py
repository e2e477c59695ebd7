"""Nobody waits for those who came first or ask for most."""

import sys
import threading

from kameleon.serving.fair_queue import FairQueue


def drained(queue, charge=10):
    order = []
    while (item := queue.take(lambda _: True)) is not None:
        *path, _ = item
        order.append(item)
        queue.charge(path, charge)
    return order


def filled(*flows):
    queue = FairQueue()
    for *path, count in flows:
        for i in range(count):
            queue.put((*path, i), path)
    return queue


def test_a_user_with_many_requests_shares_with_one_who_has_few():
    order = drained(filled(("many", None, 20), ("few", None, 3)))
    assert max(i for i, item in enumerate(order) if item[0] == "few") <= 6
    assert [i for user, _, i in order if user == "many"] == list(range(20))


def test_adapters_of_one_user_share_and_users_count_before_adapters():
    queue = filled(("a", "x", 9), ("a", "y", 9), ("a", "z", 9), ("b", "x", 9))
    first = drained(queue)[:12]
    assert sum(user == "b" for user, _, _ in first) == 6
    assert {adapter for user, adapter, _ in first if user == "a"} == {"x", "y", "z"}


def test_keys_count_before_their_users_so_that_names_gain_nothing():
    order = drained(filled(*(("many names", f"user {i}", None, 1) for i in range(30)), ("one name", "u", None, 6)))
    assert max(i for i, item in enumerate(order) if item[0] == "one name") <= 12


def test_the_last_of_those_that_have_most_waiting_is_found_by_key_then_by_user():
    queue = filled(("a", "x", None, 3), ("a", "y", None, 4), ("b", "z", None, 6))
    assert queue.last_of_the_longest() == ("a", "y", None, 3)
    queue.remove(("a", "y", None, 3))
    queue.remove(("a", "x", None, 0))
    assert queue.last_of_the_longest() == ("b", "z", None, 5)
    waiting = [queue.waiting_of(path) for path in ((), ("a",), ("a", "x"), ("b", "z"), ("c",), ("a", "q"))]
    assert waiting == [11, 5, 2, 6, 0, 0]


def test_who_comes_back_after_a_pause_has_saved_up_no_claim():
    queue = filled(("busy", None, 1))
    for _ in range(50):
        queue.charge(("busy", None), 10)
    queue.put(("busy", None, 1), ("busy", None))
    for i in range(30):
        queue.put(("new", None, i), ("new", None))
        queue.put(("busy", None, 2 + i), ("busy", None))
    assert sum(user == "busy" for user, _, _ in drained(queue)[:20]) >= 8


def test_what_does_not_fit_is_passed_over_and_can_be_removed():
    queue = filled(("a", "cold", 1), ("a", "warm", 1))
    assert queue.take(lambda item: item[1] == "warm") == ("a", "warm", 0)
    assert len(queue) == 1
    queue.remove(("a", "cold", 0))
    assert len(queue) == 0 and queue.take(lambda _: True) is None


def test_a_newcomer_has_no_claim_on_what_was_served_before_though_nobody_waits():
    queue = filled(("busy", None, 1))
    queue.charge(("busy", None), 1000)
    queue.put(("busy", None, 1), ("busy", None))
    assert queue.take(lambda _: True) and queue.take(lambda _: True)
    for i in range(20):
        queue.put(("new", None, i), ("new", None))
        queue.put(("busy", None, i), ("busy", None))
    assert sum(user == "busy" for user, _, _ in drained(queue)[:20]) >= 8


def test_names_that_never_come_back_are_forgotten_and_those_that_wait_are_not():
    queue = FairQueue()
    for i in range(3000):
        queue.put(i, (f"user {i}", f"adapter {i}"))
        if i % 3:
            assert queue.take(lambda _: True) is not None
            queue.charge((f"user {i}", None), 5)
    assert len(queue) == 1000
    for i in range(1001):
        queue.put(-1, ("one", f"adapter {i}"))
    assert len(queue._all.parts) <= 2002
    assert len([queue.take(lambda _: True) for _ in range(2001)]) == 2001 and len(queue) == 0


def test_its_length_may_be_asked_for_while_others_come_and_go():
    queue, over = FairQueue(), threading.Event()

    def come_and_go():
        for i in range(3000):
            queue.put(i, (f"user {i}", None))
            queue.take(lambda _: True)
        over.set()

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threading.Thread(target=come_and_go).start()
        while not over.is_set():
            assert len(queue) in (0, 1)
    finally:
        sys.setswitchinterval(often)
