"""One line in the log for each request when its response has ended: names and figures, no texts and no keys."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kameleon.generation import Piece
from kameleon.terminal import printable

_log = logging.getLogger(__name__)
_QUIET = ("/health", "/ready", "/metrics")  # programs that watch the server ask them every few seconds
_LONGEST_ERROR = 500  # characters
_LONGEST = 80  # characters of a model's name or a path that are shown


@dataclass
class Entry:
    """Facts about a request that its route notes for the log."""

    model: str | None = None
    prompt_tokens: int = 0
    finishes: list[str] = field(default_factory=list)
    """Why each answer ended, in the order in which they ended."""
    answer_tokens: dict[int, int] = field(default_factory=dict)
    """Tokens of each answer by its number, cut answers included."""
    refusal: dict[str, str] = field(default_factory=dict)
    """The `code` of the error that the client got, and the `param` at fault."""
    hidden: str | None = None
    """What the client was not told of its error."""

    def note(self, answer: int, piece: Piece) -> None:
        """Count a piece of the answer with this number."""
        self.answer_tokens[answer] = self.answer_tokens.get(answer, 0) + len(piece.tokens)
        if piece.completion is not None:
            self.answer_tokens[answer] = len(piece.completion.tokens)  # without tokens that a stop string removed
            self.finishes.append(piece.completion.finish)
        elif piece.error is not None:
            self.finishes.append("error")


class LogRequests:
    """ASGI middleware that writes the line. Routes inside of it get their entry from `entry_of`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry, started = Entry(), time.perf_counter()
        status = 500  # of an exception, which is made further out

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})["entry"] = entry
        try:
            await self._app(scope, receive, watching)
        finally:
            if scope["path"] not in _QUIET:
                _log.info("%s", _line(scope, status, entry, time.perf_counter() - started))


def _line(scope: Scope, status: int, entry: Entry, took_s: float) -> str:
    words = [word(scope["method"]), word(scope["path"]), str(status)]
    if entry.model is not None:
        words.append(f"model={word(entry.model)}")
    if entry.prompt_tokens:
        words.append(f"tokens={entry.prompt_tokens}+{sum(entry.answer_tokens.values())}")
    words.append(f"ms={took_s * 1000:.0f}")
    if entry.finishes:
        words.append(f"finish={','.join(dict.fromkeys(entry.finishes))}")
    words += [f"{name}={word(value)}" for name, value in entry.refusal.items()]
    if entry.hidden is not None:
        words.append(f"({printable(entry.hidden[:_LONGEST_ERROR].replace(chr(10), ' '))})")
    return " ".join(words)


def entry_of(request: HTTPConnection) -> Entry:
    """The entry of a request in the log."""
    return cast(Entry, request.state.entry)


def word(text: str) -> str:
    """Text of a client as one short word that is safe in a terminal."""
    cut = re.sub(r"[\s\\]", _escaped, text[:_LONGEST])
    return printable(cut) + ("…" if len(text) > _LONGEST else "")


def _escaped(found: re.Match[str]) -> str:
    return "\\x20" if found[0] == " " else found[0].encode("unicode_escape").decode()
