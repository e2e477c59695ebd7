"""A server under load from clients of all kinds, while adapters are replaced and deleted on disk."""

import itertools
import os
import threading
import time

import pytest
from fakes import random_adapter
from load import TOKENS, Client, Report, Swaps
from served import serving

from kameleon.adapters import Adapter
from kameleon.generation import Sampling

# The full form: KAMELEON_LOAD_S=600 pytest -m slow tests/serving/test_load.py
SECONDS = float(os.environ.get("KAMELEON_LOAD_S", "30"))
CLIENTS = 64
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


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
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

    memory = []
    log = (tmp_path / "log").open("w+")
    with (
        log,
        serving(tiny_folder, "--kv-cache-bytes", "4000000", "--adapter-bytes", "300000", log=log, exact=True) as served,
    ):
        until = time.monotonic() + SECONDS
        clients = [Client(served.address, expected, report, until, seed, swapped) for seed in range(CLIENTS)]
        changing = threading.Thread(target=change_shelf)
        changing.start()
        for client in clients:
            client.start()
        while time.monotonic() < until:
            time.sleep(SECONDS / 20)
            memory.append(served.resident_bytes())
            assert served.process.poll() is None, (tmp_path / "log").read_text()
        over.set()
        for thread in (*clients, changing):
            thread.join(60)
        served.process.kill()
        # The shelf is whole after a kill under load, and a new server answers at once.
        with serving(tiny_folder, exact=True) as again:
            late = Report()
            client = Client(again.address, {k: v for k, v in expected.items() if k[0] == "a"}, late, 0, 0)
            client._check()
            client._drop()
            assert late.checked == 1
    print(f"\n{report.checked:,} answers checked in {SECONDS:.0f} s, {report.left} left; {dict(report.statuses)}")
    print(f"memory: {memory[4] / 1e6:.1f} MB early, {memory[-1] / 1e6:.1f} MB late")
    assert not late.faults
    assert not report.faults, (len(report.faults), report.faults[:10])
    assert not [status for status in report.statuses if status >= 500]
    assert report.checked > 10 * SECONDS
    early = sum(memory[4:8]) / 4
    assert sum(memory[-4:]) / 4 < 1.05 * early + 5e6
