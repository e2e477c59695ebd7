"""The value that all routes share: the engine, its adapters, and facts about the one base."""

from __future__ import annotations

import time
from typing import cast

from starlette.requests import Request

from kameleon.adapters import Shelf
from kameleon.bases import Base
from kameleon.http.keys import Key, key_of
from kameleon.http.logprobs import TokenTexts
from kameleon.http.names import adapter_of
from kameleon.http.preparing import Preparing
from kameleon.http.prompts import Prompts
from kameleon.http.usage import Label
from kameleon.serving.client import Client
from kameleon.serving.engine import Engine
from kameleon.serving.hot_adapters import HotAdapters
from kameleon.text import TokenBytes


class Service:
    """One base being served. `any_base` accepts uploads that were trained on another base, or name none."""

    def __init__(
        self, base: Base, engine: Engine, *, adapters: HotAdapters, shelf: Shelf, any_base: bool = False
    ) -> None:
        self.base, self.engine, self.adapters, self.shelf, self.any_base = base, engine, adapters, shelf, any_base
        self.started = int(time.time())
        self.name = base.name
        self.preparing = Preparing()
        self.prompts, self.texts = Prompts(base), TokenTexts(TokenBytes(base.tokenizer))
        self.room_tokens = min(engine.state().cache_tokens, base.config.max_sequence_tokens)
        """The most tokens of a prompt and its answer together: both the base and the cache have room for them."""

    def default_max_tokens(self, prompt_tokens: int) -> int:
        """The limit of a chat answer whose request sets none; at most the room that its prompt leaves."""
        return min(self.engine.limits.default_max_tokens, max(1, self.room_tokens - prompt_tokens))

    def adapter_names(self) -> list[str]:
        """Every adapter that a request can name: those on the shelf, and those that are only in memory."""
        return self.adapters.names()

    def adapter_of(self, model: str, key: Key) -> str | None:
        """The adapter that `model` names. Raises ApiError."""
        return adapter_of(model, self.name, adapters=self.adapters, key=key)

    def model_of(self, adapter: str | None) -> str:
        """The model name of an adapter; None is the base. An adapter with the base's name is "base:adapter"."""
        if adapter == self.name:
            return f"{self.name}:{adapter}"
        return adapter or self.name

    def label(self, prefix: str, kind: str, *, adapter: str | None) -> Label:
        """A new label for an answer of `adapter`, or of the base."""
        return Label(prefix, kind, self.model_of(adapter), self.base.fingerprint[:19])


def service_of(request: Request) -> Service:
    """The service that a request reached."""
    return cast(Service, request.app.state.service)


def client_of(request: Request, user: str | None) -> Client:
    """Who asks: the key of a request, and the user that it names."""
    return Client(key_of(request).name, (user or "")[:200])
