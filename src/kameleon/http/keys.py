"""API keys of a server that others can reach. A key can be for named models only."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from kameleon.errors import SettingError
from kameleon.home import read_text

_SHORTEST = 16
_HOW = "one key a line of at least 16 characters, then, if it is for some models only, their names by commas"


@dataclass(frozen=True)
class Key:
    """One key: its hash, its line in the file (which tells users apart), and its models (None: all)."""

    digest: bytes
    number: int
    models: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """A name that does not reveal the key."""
        return f"key {self.number}"

    def may_use(self, model: str) -> bool:
        """Whether the key's holder may ask for this model."""
        return self.models is None or model in self.models


class KeyRing:
    """The keys that open a server."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    @staticmethod
    def read(path: Path) -> KeyRing:
        """Keys of a file: one on each line, then optionally its models, separated by commas; # begins a comment.

        Raises SettingError for a file that cannot be read, and for no key, a short key or the same key twice.
        """
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            raise SettingError(f"the API keys in {path} cannot be read: {error}") from error
        keys: list[Key] = []
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split(maxsplit=1)
            if not words:
                continue
            if len(words[0]) < _SHORTEST or not words[0].isascii():
                raise SettingError(f"{path}, line {number} is no key: write {_HOW}; try: openssl rand -hex 32")
            names = frozenset(name.strip() for name in words[1].split(",")) if len(words) > 1 else None
            keys.append(Key(_digest(words[0]), number, names))
        if not keys:
            raise SettingError(f"{path} holds no key; write {_HOW}; try: openssl rand -hex 32 > {path}")
        if len({key.digest for key in keys}) < len(keys):
            raise SettingError(f"{path} holds a key twice; give each its own line")
        return KeyRing(tuple(keys))

    def find(self, presented: str) -> Key | None:
        """The key that was presented. Every key is compared, each in constant time."""
        digest, found = _digest(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
