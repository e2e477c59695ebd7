"""Clients that are slow, many or ambiguous, at the socket: they are refused, others are served, nothing is held."""

import json
import logging
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from waiting import wait_until

from kameleon.http import KeyRing, create_app
from kameleon.http.connection import _Pace
from kameleon.http.repeated import OncePerSecond
from kameleon.settings import HttpSettings

GET = b"GET /v1/models HTTP/1.1\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"model": "tiny", "prompt": "one", "max_tokens": 1}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def connect(address):
    where = urlsplit(address)
    return socket.create_connection((where.hostname, where.port), timeout=20)


def rest(connection):
    """All bytes until the server closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def status(address, sent):
    """The status of the answer to these bytes."""
    return said(address, sent, wait_s=0)[0]


def said(address, sent, *, wait_s=0.05):
    """The status of the answer to these bytes, and whether the server closed the connection behind it."""
    with connect(address) as connection:
        connection.sendall(sent)
        answer = b""
        while not (head := re.match(rb"HTTP/1.1 (\d+) .*?\r\n\r\n", answer, re.DOTALL)):
            part = connection.recv(1 << 16)
            assert part, answer
            answer += part
        length = int(re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)[1])
        while len(answer) < head.end() + length:
            answer += connection.recv(1 << 16)
        connection.settimeout(wait_s)
        try:
            closed = connection.recv(1) == b""
        except (TimeoutError, BlockingIOError):
            closed = False
        return int(head[1]), closed


def host(name, *, start=GET):
    return start + b"Host: " + name + b"\r\n\r\n"


def post(*headers, body=BODY, version=b"1.1"):
    return POST.replace(b"1.1", version) + b"".join(b"%s\r\n" % header for header in headers) + b"\r\n" + body


LENGTH, CHUNKED, CHUNKS = (
    b"Content-Length: %d" % len(BODY),
    b"Transfer-Encoding: chunked",
    b"33\r\n" + BODY + b"\r\n0\r\n\r\n",
)
REFUSED = {
    "two hosts": GET + b"Host: localhost\r\nHost: localhost\r\n\r\n",
    "no host": GET + b"\r\n",
    "a host in the target": host(b"localhost", start=b"GET http://evil.com/v1/models HTTP/1.1\r\n"),
    "a tunnel": host(b"localhost", start=b"CONNECT evil.com:443 HTTP/1.1\r\n"),
    "both lengths": post(LENGTH, CHUNKED, body=CHUNKS),
    "both lengths, the other way": post(CHUNKED, LENGTH, body=CHUNKS),
    "two equal lengths": post(LENGTH, LENGTH),
    "two lengths": post(LENGTH, b"Content-Length: 3"),
    "two lengths in one": post(LENGTH + b", %d" % len(BODY)),
    "a signed length": post(b"Content-Length: +51"),
    "a length in hex": post(b"Content-Length: 0x33"),
    "an endless length": post(b"Content-Length: " + b"9" * 400),
    "chunked twice": post(CHUNKED, CHUNKED, body=CHUNKS),
    "chunked twice in one": post(b"Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "identity": post(b"Transfer-Encoding: identity", LENGTH),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunks in 1.0": post(CHUNKED, body=CHUNKS, version=b"1.0"),
    "a space before the colon": post(b"Content-Length : 51"),
    "a folded header": post(b"X-Note: one\r\n two", LENGTH),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "line feeds alone": post(LENGTH).replace(b"\r\n", b"\n"),
    "one line feed alone": GET + b"Host: localhost\nX-Note: one\r\n\r\n",
    "a carriage return alone": GET + b"Host: localhost\r\nX-Note: one\rHost: evil.com\r\n\r\n",
    "a NUL": GET + b"Host: localhost\r\nX-Note: o\0ne\r\n\r\n",
    "another version": host(b"localhost", start=b"GET / HTTP/2.0\r\n"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "an empty line": b"\r\n\r\n" + GET,
    "thousands of headers": GET + b"Host: localhost\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(5000)) + b"\r\n",
    "a huge header": GET + b"Host: localhost\r\nX-Note: " + b"a" * 100_000 + b"\r\n\r\n",
    "a bad chunk": post(CHUNKED, body=b"zz\r\n"),
}


def test_what_two_programs_may_read_differently_is_refused_and_the_connection_closed(address, service, capfd):
    answers = {name: said(address, sent) for name, sent in REFUSED.items()}
    large = ("thousands of headers", "a huge header")
    assert answers == {name: (431 if name in large else 400, True) for name in REFUSED}
    assert "Traceback" not in capfd.readouterr().err


HOSTS = {
    200: (b"localhost", b"LOCALHOST:1", b"127.0.0.1:65535", b"127.9.9.9", b"[::1]:8000", b"[0:0::1]"),
    403: (
        *(b"", b"evil.com", b"localhost.evil.com", b"127.0.0.1.evil.com", b"localhost.", b"127.0.0.1.", b"127.1", b"0"),
        *(b"2130706433", b"0x7f000001", b"0177.0.0.1", b"0.0.0.0", b"[::]", b"[fe80::1]", b"[::2]", b"localhost_"),
    ),
    400: (
        *(b"[::1].evil.com", b"[::1]evil.com", b"[::1", b"::1", b"[::1%25lo]", b"[::1%lo]", b"[localhost]", b"[]"),
        *(b"[127.0.0.1]", b"[[::1]]", b"localhost:", b"localhost:x", b"localhost:80:80", b"localhost:-1", b":80"),
        *(b"localhost:123456", b"user@localhost", b"localhost@evil.com", b"localhost:80@evil.com", b"localhost/evil"),
        *(b"localhost evil.com", b"localhost,evil.com", b"localhost#evil.com", b"localhost\xe9", b"http://localhost"),
    ),
}


def test_only_a_host_that_is_this_machine_is_taken_without_keys(address):
    for expected, names in HOSTS.items():
        assert {name: status(address, host(name)) for name in names} == dict.fromkeys(names, expected)
    assert status(address, b"GET /v1/models HTTP/1.0\r\n\r\n") == 403


def test_an_origin_is_the_servers_own_only_if_it_names_the_host_and_port_that_were_asked(address):
    def ask(origin):
        return status(address, GET + b"Host: localhost:80\r\nOrigin: " + origin + b"\r\n\r\n")

    assert ask(b"http://localhost:80") == 200
    for origin in (
        b"null",
        b"",
        b"localhost:80",
        b"file://localhost:80",
        b"http://localhost",
        b"http://a@localhost:80",
    ):
        assert ask(origin) == 403


def test_a_page_without_an_origin_is_not_the_server_where_the_host_is_missing(service, listen, tmp_path):
    (tmp_path / "keys").write_text("a-key-for-everything\n")
    address = listen(create_app(service, keys=KeyRing.read(tmp_path / "keys")))
    start = b"GET /health HTTP/1.0\r\n"
    assert status(address, start + b"\r\n") == 200
    assert status(address, start + b"Origin: null\r\n\r\n") == 403


def test_odd_but_unambiguous_requests_are_answered(address, capfd):
    assert said(address, WHOLE) == (200, False)
    assert said(address, post(CHUNKED, body=CHUNKS)) == (200, False)
    assert said(address, post(LENGTH, version=b"1.0")) == (200, True)
    assert status(address, host(b"localhost", start=b"TRACE /v1/models HTTP/1.1\r\n")) == 405
    upgrade = b"Host: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    assert said(address, GET + upgrade) == (200, False)
    with connect(address) as connection:
        connection.sendall(WHOLE)
        connection.shutdown(socket.SHUT_WR)
        rest(connection)  # the server may take a half-closed connection as one whose client has left
    with connect(address) as connection:
        connection.sendall(host(b"localhost", start=b"GET /health HTTP/1.1\r\n") * 100 + GET)
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 100:
            answers += connection.recv(1 << 16)
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_is_late_if_it_moves_too_little_in_a_span_in_which_the_server_waits():
    pace = _Pace(HttpSettings(slow_client_s=10, slow_client_bytes=100), 0)
    assert not pace.is_late(9, 0, waits=True)
    assert not pace.is_late(10, 100, waits=True)
    assert not pace.is_late(19, 100, waits=True)
    assert not pace.is_late(20, 100, waits=False)
    assert not pace.is_late(29, 199, waits=True)
    assert pace.is_late(30, 199, waits=True)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b"", None), (GET, 408), (POST + b"Content-Length: 99\r\n\r\n{", 408), (WHOLE + GET, 200)],
    ids=["nothing", "half a head", "half a body", "half a second head"],
)
def test_a_client_that_does_not_send_its_request_is_dropped(service, listen, sent, expected):
    address = listen(create_app(service), slow_client_s=0.1, keep_alive_s=1)
    with connect(address) as connection:
        connection.sendall(sent)
        answer = rest(connection)
    assert answer[9:12] == (b"" if expected is None else b"%d" % expected)


def test_a_refused_body_holds_its_connection_only_for_a_while_however_fast_it_comes(service, listen):
    address = listen(create_app(service), slow_client_s=0.1, slow_client_bytes=1, max_request_bytes=1000)
    with connect(address) as connection:
        connection.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        while b"too_large" not in connection.recv(1 << 16):
            pass
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"a" * 1000)


def test_a_client_that_does_not_read_its_answer_is_dropped(listen, capfd):
    async def endless(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"a" * 100_000, "more_body": True})

    address = listen(endless, slow_client_s=0.1)
    with connect(address) as connection:
        connection.sendall(host(b"localhost"))
        wait_until(lambda: "too slowly" in capfd.readouterr().err)


def test_where_connections_are_too_many_those_without_a_request_give_way(service, listen, capfd):
    address = listen(create_app(service), max_connections=4)
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(address)) for _ in range(20)]
        for connection in idle:
            connection.sendall(GET)  # half a head
        half = stack.enter_context(connect(address))
        half.sendall(POST + b"Content-Length: 99\r\n\r\n{")
        assert status(address, WHOLE) == 200
        assert all(rest(connection) == b"" for connection in idle[:16])


def test_where_all_connections_have_a_request_a_new_one_is_told_to_come_back(service, listen, monkeypatch):
    address = listen(create_app(service), max_connections=9, max_address_connections=2)
    submitted = []
    with ExitStack() as stack:
        monkeypatch.setattr(service.engine, "submit", lambda *given: submitted.append(given))  # it never answers
        for _ in range(2):
            stack.enter_context(connect(address)).sendall(WHOLE)
        wait_until(lambda: len(submitted) == 2)
        with connect(address) as connection:
            connection.sendall(WHOLE)
            head, _, body = rest(connection).partition(b"\r\n\r\n")
        assert b"retry-after: 1" in head.lower()
        assert json.loads(body)["error"]["code"] == "too_many_connections"


def test_a_fault_that_is_repeated_is_one_line_a_second_with_its_number():
    now, told = 0.0, []
    once = OncePerSecond(lambda: now)

    def log(level, text):
        record = logging.LogRecord("a", level, "", 0, "%s came", (text,), None)
        if once.filter(record):
            told.append(record.getMessage())

    for text in "abc":
        log(logging.WARNING, text)
    now = 1.5
    log(logging.WARNING, "d")
    log(logging.INFO, "e")
    log(logging.INFO, "f")
    assert told == ["a came", "d came (2 more like this left out)", "e came", "f came"]


@pytest.mark.slow
def test_where_file_descriptors_run_out_a_polite_client_is_answered_and_the_log_stays_short(tmp_path):
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT)
    few = f"ulimit -n 200; exec {sys.executable} {script}"
    with (tmp_path / "err").open("wb") as err, ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(["bash", "-c", few], stdout=subprocess.PIPE, stderr=err))
        stack.callback(server.kill)
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        for _ in range(100):
            stack.enter_context(connect(address)).sendall(GET)
        assert status(address, host(b"localhost")) == 200
        assert (tmp_path / "err").stat().st_size < 10_000


SCRIPT = """
from kameleon.http import Runner, open_socket
from kameleon.settings import HttpSettings

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            await send({"type": (await receive())["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

settings = HttpSettings(port=0)
opened = open_socket(settings)
held = [open("/dev/null") for _ in range(150)]
Runner(settings).run(app, opened, on_ready=lambda: print(opened.getsockname()[1], flush=True))
"""
