"""API keys of a server that others can reach: each is for all models or for named ones, and has a role."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from starlette.requests import HTTPConnection

from kameleon.errors import SettingError
from kameleon.home import read_text

Role = Literal["use", "train", "admin"]
"""What a key may do. use: ask its models. train: no more than that today, since the server takes no training runs yet.
admin: also manage adapters, and see the figures and the full errors of the whole server."""

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
_REST = re.compile(r"(.*?)((?:^|\s)role=(\S*))?", re.DOTALL)  # of a line behind its key
_MISPLACED = re.compile(r"role\s*=|\s(use|train|admin)$", re.IGNORECASE)  # a base's name may hold spaces
_COMMENT = re.compile(r"(?:^|\s)#.*")
_SHORTEST = 16
_HOW = (
    "KEY, KEY MODELS or KEY MODELS role=ROLE; KEY has at least 16 characters of ASCII and no #, MODELS are names with "
    "commas between them (without them the key is for all), ROLE is use, train or admin"
)
_MAKE = "openssl rand -hex 32"


@dataclass(frozen=True)
class Key:
    """One key: its hash, its line in the file (which tells clients apart), its models (None: all), its role."""

    digest: bytes
    number: int
    models: frozenset[str] | None = None
    role: Role = "use"

    @property
    def name(self) -> str:
        """A name that does not reveal the key."""
        return f"key {self.number}"

    @property
    def is_admin(self) -> bool:
        """Whether its holder may manage adapters and see what concerns all clients."""
        return self.role == "admin"

    def may_use(self, model: str) -> bool:
        """Whether its holder may ask for this model, and may learn that there is one of this name."""
        return self.models is None or model in self.models


EVERYBODY = Key(b"", 0, role="admin")
"""Who asks a server without keys."""
NOBODY = Key(b"", 0, frozenset())
"""Who asks without a key where none is demanded: for whether the server is ready, and for the options of a path."""


def key_of(request: HTTPConnection) -> Key:
    """The key that a request came with."""
    return request.state.key


class KeyRing:
    """The keys that open a server."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    @staticmethod
    def read(path: Path) -> KeyRing:
        """Keys of a file, one on each line: KEY [MODELS] [role=ROLE]; # begins a comment.

        A key for all models is an admin's and a key for named models one for use, unless its line says a role. Raises
        SettingError for a file that cannot be read, and for no key, a line that is none, or the same key twice.
        """
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            raise SettingError(f"the API keys in {path} cannot be read: {error}") from error
        keys: dict[bytes, Key] = {}
        for number, line in enumerate(lines, 1):
            plain = _COMMENT.sub("", line).strip()
            if not plain:
                continue
            try:
                key = _parsed(plain, number)
            except ValueError as error:  # it says nothing of what stands there: that may be the key
                raise SettingError(f"{path}, line {number}: {error}; a line is {_HOW}") from None
            if (first := keys.setdefault(key.digest, key)) is not key:
                raise SettingError(f"{path}, line {number} has the key of line {first.number}; each needs its own")
        if not keys:
            raise SettingError(f"{path} holds no key; a line is {_HOW}; try: {_MAKE} > {path}")
        return KeyRing(tuple(keys.values()))

    def find(self, presented: str) -> Key | None:
        """The key that was presented. Every key is compared, each in constant time."""
        digest, found = _digest(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _parsed(line: str, number: int) -> Key:
    """The key of a line without its comment. Raises ValueError."""
    secret, *rest = line.split(maxsplit=1)
    if len(secret) < _SHORTEST or not secret.isascii() or "#" in secret:
        raise ValueError(f"it begins with no key (try: {_MAKE})")
    listed, said, role = _REST.fullmatch("".join(rest)).groups()  # type: ignore[union-attr]  (it matches any text)
    names = frozenset(name.strip() for name in listed.split(",")) if listed.strip() else None
    if said is not None and role not in _ROLES:
        raise ValueError(f"its role must be one of {', '.join(_ROLES)}")
    for name in names or ():
        if not name:
            raise ValueError("a comma stands where a model is missing")
        if _MISPLACED.search(name):
            raise ValueError("a role stands last, after a space, as in role=use")
    if names is not None and role == "admin":
        raise ValueError("an admin's key is for all models; leave them out, or take another role")
    return Key(_digest(secret), number, names, _ROLES.get(role, "admin" if names is None else "use"))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
