"""What all routes share: the engine, its adapters, and what is known about the one base."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from kameleon.adapters import Shelf
from kameleon.bases import Base
from kameleon.http.guard import key_of
from kameleon.http.keys import Key
from kameleon.http.logprobs import TokenTexts
from kameleon.http.names import adapter_of, base_name
from kameleon.http.prompts import Prompts
from kameleon.http.usage import Label
from kameleon.serving.engine import Engine
from kameleon.serving.hot_adapters import HotAdapters


@dataclass(frozen=True, eq=False)
class Service:
    """One base being served. `any_base` accepts adapters that do not say, or say otherwise, whose they are."""

    base: Base
    engine: Engine
    adapters: HotAdapters
    shelf: Shelf
    any_base: bool = False
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", base_name(self.base.name))
        object.__setattr__(self, "prompts", Prompts(self.base))
        object.__setattr__(self, "texts", TokenTexts(self.base.tokenizer))
        room = min(self.engine.state().cache_tokens, self.base.config.max_sequence_tokens)
        object.__setattr__(self, "room_tokens", room)

    name: str = field(init=False)
    prompts: Prompts = field(init=False)
    texts: TokenTexts = field(init=False)
    room_tokens: int = field(init=False)
    """The longest a prompt and its answer can be together: what the base handles, and the cache holds."""

    def default_max_tokens(self, prompt_tokens: int) -> int:
        """The limit of an answer to a chat request that sets none; never more than the room behind its prompt."""
        return min(self.engine.limits.default_max_tokens, max(1, self.room_tokens - prompt_tokens))

    def adapter_names(self) -> list[str]:
        """Every adapter that can be asked for: those on the shelf, and those that are only in memory."""
        return self.adapters.names()

    def adapter_of(self, model: str, key: Key | None) -> str | None:
        """The adapter that `model` names. Raises ApiError."""
        return adapter_of(model, self.name, self.adapters, key)

    def model_of(self, adapter: str | None) -> str:
        """The model that `adapter` is, None being the base; one that is called as the base is needs both names."""
        if adapter == self.name:
            return f"{self.name}:{adapter}"
        return adapter or self.name

    def label(self, prefix: str, kind: str, adapter: str | None) -> Label:
        """A new label for an answer of `adapter`, or of the base."""
        return Label(prefix, kind, self.model_of(adapter), self.base.fingerprint[:19])


def service_of(request: Request) -> Service:
    """The service that a request reached."""
    return cast(Service, request.app.state.service)


def user_of(request: Request, named: str | None) -> str:
    """Whose request this is, for fairness: the key's, and within it the user that the request names."""
    key = key_of(request)
    return " ".join(part for part in (key and key.user, named and named[:200]) if part)
