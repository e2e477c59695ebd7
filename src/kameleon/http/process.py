"""The server's process: its socket, signals, draining, and an end with an error when the engine fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from kameleon.errors import KameleonError, SettingError
from kameleon.http.connection import Connection, waiting_in
from kameleon.http.guard import is_local
from kameleon.http.key_file import check_key_file
from kameleon.http.repeated import OncePerSecond
from kameleon.machine import open_files
from kameleon.settings import HttpSettings

_log = logging.getLogger(__name__)
_TIMED = {"format": "%(asctime)s %(message)s", "datefmt": "%Y-%m-%d %H:%M:%S"}
_OURS = {"class": "logging.StreamHandler", "formatter": "timed", "filters": ["repeated"]}
# uvicorn's configuration, and our logger beside it: lines of `kameleon` go to standard error with their time.
_LOGGING = {
    **LOGGING_CONFIG,
    "filters": {"repeated": {"()": OncePerSecond}},
    "formatters": {**LOGGING_CONFIG["formatters"], "timed": _TIMED},
    "handlers": {**LOGGING_CONFIG["handlers"], "timed": _OURS},
    "loggers": {
        **{name: {"handlers": ["timed"], "level": "INFO"} for name in ("uvicorn", "kameleon")},
        "asyncio": {"handlers": ["timed"], "level": "WARNING", "propagate": False},
    },
}
_BACKLOG = 2048  # connections that the system holds until they are accepted
_SEND_BUFFER_BYTES = 1 << 17  # of the system, for each connection: a client that stops reading holds little
_OTHER_FILES = 128  # beside connections: weights, adapters that are loaded, uploads
_TICKS_PER_SWEEP = 10  # uvicorn ticks ten times a second
_GRACE_S = 1.5  # after the drain time, for threads that still compute
_LAST_WORDS_S = 5.0  # for responses that report the failure, before the process is ended by force


def open_socket(settings: HttpSettings) -> socket.socket:
    """A listening socket.

    Raises SettingError for a taken port, and for a host that others can reach without keys, or with keys that others on
    this machine can read.
    """
    if settings.api_key_file is not None:
        check_key_file(settings.api_key_file, is_local=is_local(settings.host))
    elif not is_local(settings.host):
        raise SettingError(
            f"host {settings.host} can be reached by others, so it needs --api-key-file (one key a line); "
            "try: openssl rand -hex 32 > keys.txt"
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # connections inherit it
        opened.bind((settings.host, settings.port))
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise SettingError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port"
        ) from error
    return opened


class Runner:
    """Runs an application until a signal, then lets running answers end. `failed` is safe from any thread."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._server: _Server | None = None
        self._failure: BaseException | None = None

    def failed(self, failure: BaseException) -> None:
        """End the process, because the engine has failed: by force if it does not end within some seconds."""
        _log.critical("the engine has failed", exc_info=failure)
        self._failure = failure
        self.stop()
        _end_within(_LAST_WORDS_S, 1)

    def stop(self) -> None:
        """Make the server end as after a signal. Safe from any thread."""
        if self._server is not None:
            self._server.should_exit = True

    def run(self, app: FastAPI, opened: socket.socket, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGINT or SIGTERM; a second one ends at once. Raises KameleonError if the engine failed."""
        config = uvicorn.Config(
            app,
            log_config=_LOGGING,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=partial(Connection, settings=_within_files(self._settings)),  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            backlog=1,  # asyncio tries to accept as often as this when no file descriptor is left, with a report each
            timeout_keep_alive=math.ceil(self._settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(self._settings.drain_s)),
        )
        self._server = _Server(config, on_ready)
        # Objects of now stay: a collection that walks through all of them stops every stream for a quarter of a second.
        gc.collect()
        gc.freeze()
        if self._failure is None:
            self._server.run(sockets=[opened])
        if self._failure is not None:
            raise KameleonError(f"the engine has failed: {self._failure}") from self._failure


def _within_files(settings: HttpSettings) -> HttpSettings:
    """The settings with as many connections as the system allows, whose soft limit is raised if it can be."""
    allowed = max(1, open_files(settings.max_connections + _OTHER_FILES) - _OTHER_FILES)
    if allowed >= settings.max_connections:
        return settings
    _log.warning("this process may open few files (ulimit -n), so only %d connections may be open", allowed)
    return replace(settings, max_connections=allowed)


def _end_within(seconds: float, status: int) -> None:
    """End this process by force with that exit status, unless it ends by itself before."""
    ending = threading.Timer(seconds, os._exit, (status,))
    ending.daemon = True
    ending.start()


class _Server(uvicorn.Server):
    """uvicorn's server, but it ends normally after a signal; uvicorn's own raises the signal again at the end."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(self._on_loop_fault)
        for opened in sockets or ():
            opened.listen(_BACKLOG)  # asyncio has set it to uvicorn's backlog
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)

    def _on_loop_fault(self, loop: asyncio.AbstractEventLoop, fault: dict[str, Any]) -> None:
        """Tell a fault that asyncio reports. Where no file descriptor is left, half of those that wait give theirs."""
        error = fault.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(fault)
            return
        waiting = waiting_in(self.server_state.connections)
        ended = waiting[: (len(waiting) + 1) // 2]
        for connection in ended:
            connection.drop()
        _log.warning("no file descriptor is left (ulimit -n): %d connections without a request are closed", len(ended))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._on_signal) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Threads that still compute (a template, an upload, a grammar) are no part of a connection that drains.
        _end_within((self.config.timeout_graceful_shutdown or 0) + _GRACE_S, 0)
        self.force_exit = self.should_exit
        self.should_exit = True
