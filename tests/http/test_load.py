"""A server under load from clients of all kinds, hostile ones too, while adapters are replaced and deleted on disk.

In the middle it is killed, and another one takes its place.
"""

import itertools
import os
import threading
import time
from collections import Counter

import pytest
from fakes import random_adapter
from hostile_clients import KINDS, Hostile
from load import TOKENS, Client, Report, Server, Swaps
from served import serving

from kameleon.adapters import Adapter
from kameleon.generation import Sampling

# The full form: KAMELEON_LOAD_S=600 pytest -m slow tests/serving/test_load.py
SECONDS = float(os.environ.get("KAMELEON_LOAD_S", "30"))
CLIENTS = 64
KEY, HARM = "polite-polite-polite", "hostile-hostile-hostile"
PROMPTS = [f"{word} {number}" for word in ("one", "two", "three") for number in range(4)]
CLEAR = 1e-3  # nats between the likeliest token and the next: no order of sums can change such a choice


def renamed(adapter, name):
    return Adapter(name, adapter.modules, adapter.card)


@pytest.fixture
def known(tiny):
    """Adapters on the shelf, two versions of one that will be swapped, and the right answers of all."""
    kinds = {name: random_adapter(tiny.base, name, seed) for seed, name in enumerate(("a", "b", "c", "d", "e", "gone"))}
    swaps = [renamed(random_adapter(tiny.base, "swap", seed), "swap") for seed in (50, 51)]
    for adapter in (*kinds.values(), swaps[0]):
        tiny.shelf.save(adapter)
        tiny.load_adapter(adapter)
    expected = {}

    def learn(model, adapter):
        wish = Sampling(max_tokens=TOKENS, logprobs=2)
        done = tiny.generate(PROMPTS, adapters=[adapter] * len(PROMPTS), sampling=wish, raw=True)
        for prompt, one in zip(PROMPTS, done, strict=True):
            gaps = [score.alternatives[0][1] - score.alternatives[1][1] for score in one.scores]
            expected.setdefault((model, prompt), []).append(one.text if min(gaps, default=1) > CLEAR else None)

    learn("tiny", None)
    for name in kinds:
        learn(name, name)
    for swap in swaps:
        tiny.load_adapter(swap)
        learn("swap", "swap")
    return {pair: texts for pair, texts in expected.items() if None not in texts}, kinds, swaps


def memory_in_this_half(served, log):
    """The server's memory, looked at ten times."""
    for _ in range(10):
        time.sleep(SECONDS / 20)
        assert served.process.poll() is None, log.read_text()
        yield served.resident_bytes()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 180)
def test_nothing_breaks_leaks_or_answers_for_another(tiny, tiny_folder, known, tmp_path):
    expected, kinds, swaps = known
    assert len(expected) > 60
    report, over, swapped = Report(), threading.Event(), Swaps()

    def change_shelf():
        for turn in itertools.count(1):
            if over.wait(0.2):
                return
            if turn % 2:
                tiny.shelf.remove("gone")
            else:
                tiny.shelf.save(kinds["gone"])
            if turn % 10 == 0:  # longer than an answer takes, so that one from the version before shows
                version = turn // 10 % 2
                if turn // 10 % 4 > 1:  # numbers begin anew
                    tiny.shelf.remove("swap")
                swapped.change(version, lambda version=version: tiny.shelf.save(swaps[version]))

    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{KEY}\n{HARM} tiny\n")
    words = ("--kv-cache-bytes", "4000000", "--adapter-bytes", "300000", "--api-key-file", str(keys))
    halves, log = [], tmp_path / "log"
    with log.open("w+") as opened:
        with serving(tiny_folder, *words, log=opened, exact=True) as served:
            server, until = Server(served.address), time.monotonic() + SECONDS
            clients = [Client(server, expected, report, until, n, key=KEY, swaps=swapped) for n in range(CLIENTS)]
            hostile = [Hostile(served.address, act, key=HARM, model="tiny", over=over) for act in KINDS.values()]
            changing = threading.Thread(target=change_shelf)
            for thread in (changing, *clients, *hostile):
                thread.start()
            halves.append([*memory_in_this_half(served, log)])
            server.is_killed()
            served.process.kill()
        with serving(tiny_folder, *words, port=int(server.netloc.rpartition(":")[2]), log=opened, exact=True) as served:
            server.up.set()
            halves.append([*memory_in_this_half(served, log)])
            for thread in clients:
                thread.join(90)
            begun = time.monotonic()
            served.process.terminate()
            served.process.wait(60)
            ended_s = time.monotonic() - begun
            over.set()
    changing.join(60)
    harmful = sum((one.statuses for one in hostile), Counter())
    print(f"\n{report.checked:,} answers checked in {SECONDS:.0f} s, {report.left} left; {dict(report.statuses)}")
    print(f"hostile clients: {dict(harmful)}")
    print("memory in MB:", [[round(one / 1e6) for one in half] for half in halves], f"; ended after {ended_s:.1f} s")
    assert not report.faults, (len(report.faults), report.faults[:10])
    assert not [status for status in (*report.statuses, *harmful) if status >= 500]
    assert report.checked > 10 * SECONDS
    for half in halves:
        early = sum(half[2:5]) / 3
        assert sum(half[-3:]) / 3 < 1.05 * early + 20e6
