"""One hostile client of each kind beside a polite one."""

import http.client
import json
import threading
from urllib.parse import urlsplit

import pytest
from hostile_clients import KINDS, Hostile

from kameleon.http import KeyRing, create_app
from kameleon.serving import Limits

POLITE, HARM = "polite-polite-polite", "hostile-hostile-hostile"
LIMITS = Limits(kv_cache_bytes=4 << 20, adapter_bytes=64 << 20, max_queue=32, max_batch=16, prefill_chunk_tokens=32)
MOST_STEPS = 4
CLIENTS = 2


class Counted:
    """Counts the engine's steps between a request of the polite key and its first piece."""

    def __init__(self, engine, monkeypatch):
        self.steps, self.waited = 0, []
        step, submit = engine._batch.step, engine.submit

        def counted_step():
            self.steps += 1
            return step()

        def counted_submit(request, on_piece, client):
            if client.key != "key 1":
                return submit(request, on_piece, client)
            begun, heard = self.steps, []

            def on_counted(piece):
                if not heard:
                    heard.append(piece)
                    self.waited.append(self.steps - begun)
                on_piece(piece)

            return submit(request, on_counted, client)

        monkeypatch.setattr(engine._batch, "step", counted_step)
        monkeypatch.setattr(engine, "submit", counted_submit)


def ask_for_a_token(address):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    body = json.dumps({"model": "tiny", "prompt": "please", "max_tokens": 1})
    connection.request("POST", "/v1/completions", body, {"Authorization": f"Bearer {POLITE}"} | JSON)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("act", KINDS)
def test_a_polite_client_waits_for_a_few_steps(act, make_service, listen, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.touch(mode=0o600)
    file.write_text(f"{POLITE}\n{HARM} tiny\n")
    service = make_service(LIMITS)
    counted = Counted(service.engine, monkeypatch)
    address = listen(create_app(service, keys=KeyRing.read(file)))
    over = threading.Event()
    clients = [Hostile(address, KINDS[act], key=HARM, model="tiny", over=over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    assert all(client.begun.wait(10) for client in clients)
    for _ in range(2):
        ask_for_a_token(address)
    over.set()
    print(act, counted.waited, [client.statuses for client in clients])
    assert len(counted.waited) == 2 and max(counted.waited) <= MOST_STEPS, counted.waited
    assert [status for client in clients for status in client.statuses if status >= 500] == []
