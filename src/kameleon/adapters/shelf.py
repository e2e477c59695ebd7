"""Adapters on disk, by name."""

from __future__ import annotations

import difflib
import shutil
from dataclasses import dataclass
from pathlib import Path

from kameleon.adapters.adapter import Adapter, check_name
from kameleon.adapters.card import Card
from kameleon.errors import AdapterError, AdapterNotFoundError
from kameleon.home import adapters_dir


@dataclass(frozen=True)
class ShelfEntry:
    """One adapter as the shelf sees it, without its tensors. `fault` says why a broken one cannot be read."""

    name: str
    path: Path
    bytes: int
    card: Card | None
    fault: str | None = None


class Shelf:
    """A folder of adapters, by default the one in Kameleon's home."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or adapters_dir()

    def names(self) -> list[str]:
        """Names in order; folders whose name starts with a dot are unfinished writes."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))

    def has(self, name: str) -> bool:
        return check_name(name) in self.names()

    def entries(self) -> list[ShelfEntry]:
        """All adapters with their cards; a broken one is listed with its fault."""
        return [self._entry(name) for name in self.names()]

    def path(self, name: str) -> Path:
        """The folder of an adapter that is there. Raises AdapterNotFoundError, naming the nearest."""
        if not self.has(name):
            near = difflib.get_close_matches(name, self.names(), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise AdapterNotFoundError(
                f"no adapter {name!r} on the shelf: {hint}it holds {', '.join(self.names()) or 'none'}"
            )
        return self.root / name

    def load(self, name: str) -> Adapter:
        """Raises AdapterNotFoundError, AdapterFileError."""
        return Adapter.load(self.path(name))

    def save(self, adapter: Adapter) -> Path:
        """Put an adapter on the shelf under its own name, in place of an older one. Raises AdapterFileError."""
        path = self.root / adapter.name
        adapter.save(path)
        return path

    def remove(self, name: str) -> None:
        """Raises AdapterNotFoundError."""
        shutil.rmtree(self.path(name))

    def _entry(self, name: str) -> ShelfEntry:
        path = self.root / name
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        try:
            card_path = path / "kameleon.json"
            if not (path / "adapter_config.json").exists():
                raise AdapterError("it has no adapter_config.json")
            card = Card.from_json(card_path.read_text(encoding="utf-8")) if card_path.exists() else None
        except (AdapterError, OSError) as error:
            return ShelfEntry(name, path, size, None, str(error))
        return ShelfEntry(name, path, size, card)
