"""Clients that leave, and a server that ends: nothing is computed for nobody, nobody waits for nothing."""

import asyncio
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from waiting import wait_until

from kameleon import Sampling
from kameleon.generation import Request
from kameleon.http import create_app
from kameleon.http.answers import Answers
from kameleon.http.request_log import Entry
from kameleon.serving import Client, Limits

LONG = {"model": "tiny", "prompt": "one", "max_tokens": 240, "ignore_eos": True, "temperature": 0}


def open_request(address, body):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_has_its_request_cancelled(service, address, stream, monkeypatch):
    step = service.engine._batch.step
    monkeypatch.setattr(service.engine._batch, "step", lambda: time.sleep(0.02) or step())  # else it may end first
    connection = open_request(address, {**LONG, "stream": stream, "n": 4})
    if stream:
        with connection.getresponse() as response:
            assert response.readline().startswith(b"data: ")
    else:
        wait_until(lambda: service.engine.state().running)
    connection.close()
    wait_until(lambda: not service.engine.state().running, within_s=4)  # all of it would take longer
    finished = service.engine.state().counters[None].finished
    assert finished.get("cancelled", 0) >= 1
    assert sum(finished.values()) == 4


def test_a_client_that_leaves_while_its_request_is_taken_in_keeps_nobody_waiting(service, monkeypatch):
    submit, step = service.engine.submit, service.engine._batch.step
    may_go_on, begun = threading.Event(), threading.Event()
    endless = Sampling(max_tokens=200, logit_bias=tuple((end, -100.0) for end in service.base.stop_token_ids))

    def slow(*given):
        begun.set()
        assert may_go_on.wait(20)
        return submit(*given)

    async def leave():
        async with Answers(service, client=Client(), entry=Entry()) as answers:
            asking = asyncio.ensure_future(answers.ask(lambda: [Request((65,), sampling=endless)] * 3))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            asking.cancel()
        may_go_on.set()  # only now: the event loop was not held up

    monkeypatch.setattr(service.engine, "submit", slow)
    monkeypatch.setattr(service.engine._batch, "step", lambda: time.sleep(0.02) or step())  # else it may end first
    asyncio.run(leave())
    wait_until(lambda: None in service.engine.state().counters)  # its thread may be last to go on
    wait_until(lambda: service.engine.state().counters[None].finished == {"cancelled": 1})
    assert service.engine.state().counters[None].requests == 1


def test_an_engine_that_breaks_tells_everyone_and_the_server_is_not_ready(service, address, monkeypatch):
    def broken():
        raise RuntimeError("out of order")

    monkeypatch.setattr(service.engine._batch, "step", broken)
    connection = open_request(address, LONG)
    response = connection.getresponse()
    assert response.status == 500
    assert "out of order" in json.loads(response.read())["error"]["message"]
    connection.request("GET", "/ready")
    assert connection.getresponse().status == 503
    connection.close()


def test_an_answer_cut_when_the_server_ends_is_one_that_clients_know(service, client, monkeypatch):
    step = service.engine._batch.step
    monkeypatch.setattr(service.engine._batch, "step", lambda: time.sleep(0.02) or step())
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(client.post, "/v1/completions", json=LONG)
        wait_until(lambda: service.engine.state().running)
        service.engine.close(0)
        assert answer.result(20).json()["choices"][0]["finish_reason"] == "length"


def test_who_never_began_when_the_server_ends_is_told_so(make_service):
    service = make_service(Limits(kv_cache_bytes=4 << 20, max_batch=1))
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client, ThreadPoolExecutor(2) as asking:
        answers = [asking.submit(client.post, "/v1/completions", json=LONG) for _ in range(2)]
        wait_until(lambda: service.engine.state().running and service.engine.state().queued)
        service.engine.close(0)
        assert sorted(one.result(20).status_code for one in answers) == [200, 429]
        late = next(one.result() for one in answers if one.result().status_code == 429)
    assert "shutting down" in late.json()["error"]["message"]
    assert late.headers["retry-after"]
