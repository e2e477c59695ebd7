"""The server's process: its socket, signals, draining, and an end with an error when the engine fails."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from kameleon.errors import KameleonError, SettingError
from kameleon.http.guard import is_local
from kameleon.settings import HttpSettings

_log = logging.getLogger(__name__)
_TIMED = {"format": "%(asctime)s %(message)s", "datefmt": "%Y-%m-%d %H:%M:%S"}
# uvicorn's configuration, and our logger beside it: lines of `kameleon` go to standard error with their time.
_LOGGING = {
    **LOGGING_CONFIG,
    "formatters": {**LOGGING_CONFIG["formatters"], "timed": _TIMED},
    "handlers": {**LOGGING_CONFIG["handlers"], "timed": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "loggers": {**LOGGING_CONFIG["loggers"], "kameleon": {"handlers": ["timed"], "level": "INFO"}},
}
_LAST_WORDS_S = 5.0  # for responses that report the failure, before the process is ended by force


def open_socket(settings: HttpSettings) -> socket.socket:
    """A listening socket. Raises SettingError for a host that others can reach without keys, or a taken port."""
    if settings.api_key_file is None and not is_local(settings.host):
        raise SettingError(
            f"host {settings.host} can be reached by others, so it needs --api-key-file (one key a line); "
            "try: openssl rand -hex 32 > keys.txt"
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((settings.host, settings.port))
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise SettingError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port"
        ) from error
    return opened


class Runner:
    """Runs an application until a signal, then lets running answers end. `failed` is safe from any thread."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._server: _Server | None = None
        self._failure: BaseException | None = None

    def failed(self, failure: BaseException) -> None:
        """End the process, because the engine has failed: by force if it does not end within some seconds."""
        _log.critical("the engine has failed", exc_info=failure)
        self._failure = failure
        self.stop()
        ending = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
        ending.daemon = True
        ending.start()

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
            timeout_graceful_shutdown=max(1, round(self._drain_s)),
        )
        self._server = _Server(config, on_ready)
        # Objects of now stay: a collection that walks through all of them stops every stream for a quarter of a second.
        gc.collect()
        gc.freeze()
        if self._failure is None:
            self._server.run(sockets=[opened])
        if self._failure is not None:
            raise KameleonError(f"the engine has failed: {self._failure}") from self._failure


class _Server(uvicorn.Server):
    """uvicorn's server, but it ends normally after a signal; uvicorn's own raises the signal again at the end."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

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
        self.force_exit = self.should_exit
        self.should_exit = True
