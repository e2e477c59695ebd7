"""Adapters that come from the shelf when somebody asks for them, and leave when memory is wanted for others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kameleon.adapters import Adapter, Bank, Proof, Shelf, prove
from kameleon.errors import AdapterError, AdapterMismatchError, AdapterNotFoundError, KameleonError
from kameleon.model import Base
from kameleon.ops import NO_ADAPTER
from kameleon.serving.state import AdapterState


@dataclass(eq=False)
class Version:
    """One version of an adapter: wanted, then resident in a slot, or broken. Whoever holds it keeps it resident."""

    name: str
    source: Path | Adapter | None
    number: int | None
    slot: int = NO_ADAPTER
    bytes: int = 0
    holders: int = 0
    ready: bool = False
    error: KameleonError | None = None
    used: int = 0  # the moment of its last use, in uses of any adapter


class HotAdapters:
    """The resident adapters over one base, under a budget of memory. Safe for several threads.

    An adapter is loaded by a thread of its own, beside running requests. When the budget is used up, those leave that
    nobody holds and that were used longest ago; pinned ones stay, and so do values that were added. An adapter waits
    for room until requests have let go of others.
    """

    def __init__(self, base: Base, shelf: Shelf | None = None, budget_bytes: int = 0, any_base: bool = False) -> None:
        self.base, self.shelf = base, shelf or Shelf()
        self.bank = Bank(base, frozen=True)
        self.budget_bytes = budget_bytes
        self._any_base = any_base
        self._lock = threading.Condition(threading.RLock())
        self._versions: list[Version] = []
        self._current: dict[str, Version] = {}
        self._pinned: set[str] = set()
        self._uses = 0
        self._wanted: queue.SimpleQueue[Version | None] = queue.SimpleQueue()
        self._loader: threading.Thread | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called, from any thread, when an adapter became ready or broke."""

    def names(self) -> list[str]:
        """Every name that a request may give: those on the shelf, and values that were added."""
        with self._lock:
            added = {name for name, v in self._current.items() if isinstance(v.source, Adapter)}
        return sorted({*self.shelf.names(), *added})

    def hold(self, name: str | None) -> Version:
        """The version of `name` that new requests get, loaded in the background if it is not resident; held until
        `release`. None is the plain base. Raises AdapterNotFoundError, AdapterFileError."""
        if name is None:
            return Version("", None, None, ready=True)
        with self._lock:
            version = self._find(name)
            version.holders += 1
            self._touch(version)
        return version

    def release(self, version: Version) -> None:
        with self._lock:
            version.holders -= 1
            self._shrink()
            self._lock.notify_all()

    def load(self, name: str) -> None:
        """Make an adapter resident and wait for it. Raises AdapterError."""
        version = self.hold(name)
        try:
            with self._lock:
                self._lock.wait_for(lambda: version.ready or version.error is not None)
            if version.error is not None:
                raise version.error
        finally:
            self.release(version)

    def add(self, adapter: Adapter) -> Proof:
        """Make a value resident under its own name, proven live first; it goes before one of that name on the shelf.

        Raises AdapterError.
        """
        proof = prove(self.base, adapter, self._any_base)
        version = Version(adapter.name, adapter, None)
        with self._lock:
            version.holders += 1  # until it is current
            self._versions.append(version)
        self._settle(version, adapter)
        with self._lock:
            self._current[adapter.name] = version
            self._touch(version)
        self.release(version)
        return proof

    def pin(self, name: str) -> None:
        """Keep an adapter resident from now on; loads it if need be. Raises AdapterError."""
        with self._lock:
            self._pinned.add(name)
        try:
            self.load(name)
        except AdapterError:
            self.unpin(name)
            raise

    def unpin(self, name: str) -> None:
        with self._lock:
            self._pinned.discard(name)
            self._shrink()

    def unload(self, name: str) -> None:
        """Let an adapter go: at once, or when its running requests have ended. Raises AdapterNotFoundError."""
        with self._lock:
            version = self._current.pop(name, None)
            self._pinned.discard(name)
            if version is None:
                raise AdapterNotFoundError(f"adapter {name!r} is not resident; resident: {self._names() or 'none'}")
            self._shrink()

    def state(self) -> tuple[AdapterState, ...]:
        """Every version that is resident or on its way."""
        with self._lock:
            return tuple(
                AdapterState(
                    v.name, v.number, v.bytes, v.name in self._pinned, v.holders, not v.ready, self._is_current(v)
                )
                for v in self._versions
            )

    @property
    def bytes(self) -> int:
        """Memory of all resident versions."""
        with self._lock:
            return self._resident_bytes()

    def close(self) -> None:
        self._wanted.put(None)

    def _resident_bytes(self) -> int:
        return sum(v.bytes for v in self._versions)

    def _names(self) -> str:
        return ", ".join(sorted(self._current))

    def _is_current(self, version: Version) -> bool:
        return self._current.get(version.name) is version

    def _find(self, name: str) -> Version:
        known = self._current.get(name)
        if known is not None and isinstance(known.source, Adapter):
            return known
        path = self.shelf.path(name)
        if known is not None and known.source == path and known.error is None:
            return known
        version = Version(name, path, int(path.name))
        self._current[name] = version
        self._versions.append(version)
        if self._loader is None:
            self._loader = threading.Thread(target=self._load_wanted, name="kameleon-adapters", daemon=True)
            self._loader.start()
        self._wanted.put(version)
        return version

    def _touch(self, version: Version) -> None:
        self._uses += 1
        version.used = self._uses

    def _load_wanted(self) -> None:
        while (version := self._wanted.get()) is not None:
            try:
                self._load_one(version)
            except KameleonError as error:
                self._give_up(version, error)
            except Exception as error:  # noqa: BLE001 (a file may hold anything; whoever waits for it must hear of it)
                self._give_up(version, AdapterError(f"adapter {version.name!r} cannot be loaded: {error!r}"))
            self.on_change()

    def _load_one(self, version: Version) -> None:
        assert isinstance(version.source, Path)
        adapter = replace(Adapter.load(version.source), name=version.name)
        parts = {**adapter.modules, **adapter.ends}
        broken = [m for m, part in parts.items() if not all(bool(t.sum().isfinite()) for t in part.tensors)]
        if broken:
            raise AdapterMismatchError(f"adapter {version.name!r} holds NaN or infinity in {', '.join(broken[:3])}")
        size = self.base.compute_dtype.itemsize * adapter.parameters
        with self._lock:
            self._lock.wait_for(lambda: self._has_room(size))
        self._settle(version, adapter)

    def _has_room(self, size: int) -> bool:
        """Whether `size` bytes fit after whoever is idle has left; one adapter always does."""
        self._shrink(size)
        held = any(v.ready and v.holders for v in self._versions)
        return self._resident_bytes() + size <= self.budget_bytes or not held

    def _settle(self, version: Version, adapter: Adapter) -> None:
        """Give an adapter a slot. Raises AdapterError."""
        resident = self.bank.lay_out(adapter, self._any_base)
        with self._lock:
            version.slot = self.bank.place(resident)
            version.bytes, version.ready = self.bank.bytes(version.slot), True
            self._shrink()
            self._lock.notify_all()

    def _give_up(self, version: Version, error: KameleonError) -> None:
        with self._lock:
            version.error = error
            self._drop(version)
            self._lock.notify_all()

    def _shrink(self, needed_bytes: int = 0) -> None:
        """Versions that nobody holds leave: those that are no longer current, and those used longest ago while the
        budget is exceeded. Values that were added have no file to come back from, so they stay."""
        for version in [v for v in self._versions if v.ready and not v.holders and not self._is_current(v)]:
            self._drop(version)
        idle = [v for v in self._versions if v.ready and not v.holders and v.name not in self._pinned]
        for version in sorted(idle, key=lambda v: v.used):
            over = self._resident_bytes() + needed_bytes > self.budget_bytes
            if over and not isinstance(version.source, Adapter):
                self._drop(version)

    def _drop(self, version: Version) -> None:
        self._versions.remove(version)
        if self._is_current(version):
            del self._current[version.name]
        if version.ready:
            version.ready = False
            self.bank.free(version.slot)
