"""Requests whose prompts take long to prepare hold up their own key alone."""

import http.client
import json
import threading
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from waiting import wait_until

from kameleon.http import KeyRing, chat, create_app
from kameleon.http.tools import ToolPlan

SLOW, POLITE = "the-key-of-a-slow-client", "the-key-of-a-polite-one"
MANY = 45  # more than the threads that a server has for everything


@contextmanager
def opened(address, key, prompt):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    wish = json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 1})
    connection.request(
        "POST", "/v1/completions", wish, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    try:
        yield connection
    finally:
        connection.close()


def test_slow_prompts_of_one_key_leave_threads_to_another(service, listen, tmp_path, monkeypatch):
    of_text, begun, may_go_on = service.prompts.of_text, [], threading.Event()

    def slow(text):
        if text == "slow":
            begun.append(text)
            assert may_go_on.wait(30)
        return of_text(text)

    monkeypatch.setattr(service.prompts, "of_text", slow)
    (tmp_path / "keys").write_text(f"{SLOW}\n{POLITE}\n")
    (tmp_path / "keys").chmod(0o600)
    address = listen(create_app(service, keys=KeyRing.read(tmp_path / "keys")))
    with ExitStack() as ending:
        ending.callback(may_go_on.set)
        waiting = [ending.enter_context(opened(address, SLOW, "slow")) for _ in range(MANY)]
        wait_until(lambda: len(begun) >= 2)
        with opened(address, POLITE, "short") as polite:
            assert status_of(polite) == 200
        assert len(begun) == 2
        for left in waiting[10:]:  # nothing is prepared for those who leave
            left.close()
        may_go_on.set()
        assert [status_of(one) for one in waiting[:10]] == [200] * 10
    assert len(begun) < MANY


def status_of(connection):
    with connection.getresponse() as response:
        return response.status


def test_tools_are_read_beside_the_event_loop(client, monkeypatch):
    read_in = []

    def plan_tools(*given):
        read_in.append(threading.current_thread().name)
        return ToolPlan([])

    monkeypatch.setattr(chat, "plan_tools", plan_tools)
    wish = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert client.post("/v1/chat/completions", json=wish).status_code == 200
    assert read_in == ["AnyIO worker thread"]
