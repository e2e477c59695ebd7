"""Adapters that are loaded from the shelf when a request names them, and evicted when others need the memory."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from kameleon.adapters import Adapter, Proof, Shelf, ShelfVersion, prove
from kameleon.adapters.card import read_card
from kameleon.adapters.formats import ReadBuffer, reading_adapter
from kameleon.adapters.resident import Bank, FrozenResident, Resident
from kameleon.bases import Base
from kameleon.errors import AdapterError, AdapterFileError, AdapterNotFoundError, KameleonError, QueueFullError
from kameleon.ops import NO_ADAPTER, compute_in_one_thread
from kameleon.serving.state import AdapterState

_IDLE_S = 0.1  # before memory for the next load is prepared: the requests of the last load go first


def shutting_down() -> QueueFullError:
    """The error for new and waiting requests when the server ends."""
    return QueueFullError("the server is shutting down", 5.0)


@dataclass(eq=False)
class Version:
    """One version of an adapter: wanted, then resident in a slot, or broken.

    Requests for it hold it; while a request runs on it, it stays resident. It may be evicted and loaded again while
    requests wait for it.
    """

    name: str
    source: ShelfVersion | Adapter | None
    slot: int = NO_ADAPTER
    residence: int = 0
    """Changes on every load. It is part of the prefix cache's key, so pages never outlive a load."""
    bytes: int = 0
    holders: int = 0  # requests that wait for it or run on it
    running: int = 0
    used: int = 0  # logical clock of the last request for it (LRU)
    was_started: bool = False  # whether a request started on it since it was loaded
    leaving: bool = False  # it makes room for another: no request starts on it any more
    ready: bool = False
    error: KameleonError | None = None

    @property
    def number(self) -> int | None:
        """The shelf's number of this version; None for an adapter that is on no shelf."""
        return self.source.number if isinstance(self.source, ShelfVersion) else None

    @property
    def may_leave(self) -> bool:
        """Whether it can be evicted: an adapter that was added as a value has no file to be loaded from again."""
        return self.ready and isinstance(self.source, ShelfVersion)

    def is_overtaken_by(self, source: ShelfVersion | Adapter) -> bool:
        """Whether new requests get another version, now that `source` is what the name means."""
        return self.error is not None or (isinstance(self.source, ShelfVersion) and self.source != source)


class HotAdapters:
    """The resident adapters over one base, under a budget of memory. Safe for several threads.

    A thread of its own loads adapters, beside running requests. When the budget is used up, adapters that no request
    holds are evicted, least recently used first; pinned adapters and added values stay. When all are held, those that
    were loaded longest ago take no more requests, finish the running ones, and are evicted; requests that still wait
    for one get it again after the others. So every adapter that a request names is loaded in the end.
    """

    def __init__(
        self, base: Base, shelf: Shelf | None = None, *, budget_bytes: int = 0, any_base: bool = False
    ) -> None:
        self.base, self.shelf = base, shelf or Shelf()
        self.bank = Bank(base, frozen=True)
        self.budget_bytes = budget_bytes
        self._any_base = any_base
        self._lock = threading.Condition(threading.RLock())
        self._versions: list[Version] = []
        self._current: dict[str, Version] = {}
        self._pinned: set[str] = set()
        self._uses = self._residences = 0
        self._is_closed = False
        self._wanted: queue.SimpleQueue[Version | None] = queue.SimpleQueue()
        self._loader: threading.Thread | None = None
        self._buffer = ReadBuffer()
        self._on_change: Callable[[], None] = lambda: None

    def connect(self, *, on_change: Callable[[], None], budget_bytes: int) -> None:
        """Serve one engine: `on_change` is called, from any thread, when an adapter became ready or broke.
        `budget_bytes` counts where the constructor got none."""
        self._on_change = on_change
        self.budget_bytes = self.budget_bytes or budget_bytes

    def names(self) -> list[str]:
        """Every name that a request may give: those on the shelf, and added values."""
        with self._lock:
            added = {name for name, v in self._current.items() if isinstance(v.source, Adapter)}
        return sorted({*self.shelf.names(), *added})

    def has(self, name: str) -> bool:
        """Whether `name` is one of `names`."""
        try:
            return self._added(name) is not None or self.shelf.has(name)
        except AdapterError:
            return False  # it cannot even be a name

    def system_prompt(self, name: str | None) -> str | None:
        """What the version of `name` that new requests get was trained with; the plain base has none.

        Raises AdapterNotFoundError, AdapterFileError.
        """
        if name is None:
            return None
        source = self._added(name) or self.shelf.current(name)
        return source.card.system_prompt if isinstance(source, Adapter) else _system_prompt_of(source)

    def hold(self, name: str | None) -> Version:
        """The version of `name` that new requests get, loaded in the background if it is not resident; held until
        `release`. None is the plain base. Raises AdapterNotFoundError, AdapterFileError."""
        if name is None:
            return Version("", None, ready=True)
        # The disk is read before the lock is taken: the computing thread needs the lock too.
        source = self._added(name) or self.shelf.current(name)
        with self._lock:
            version = self._current.get(name)
            if version is None or version.is_overtaken_by(source):
                if isinstance(source, Adapter):  # it was unloaded just now
                    return self.hold(name)
                version = self._want(Version(name, source))
            version.holders += 1
            self._touch(version)
        return version

    def start(self, version: Version) -> bool:
        """Whether a request that holds `version` may run on it now; it then stays resident until the release."""
        with self._lock:
            if not version.ready or version.leaving:
                return False
            version.running += 1
            version.was_started = True
            self._lock.notify_all()
        return True

    def release(self, version: Version, *, started: bool = False) -> None:
        """End a `hold`; `started` if the request ran (see `start`)."""
        with self._lock:
            version.holders -= 1
            version.running -= started
            self._shrink()
            self._lock.notify_all()

    def load(self, name: str) -> None:
        """Make an adapter resident and wait for it. Raises AdapterError, and QueueFullError when this is closed."""
        version = self.hold(name)
        try:
            with self._lock:
                self._lock.wait_for(lambda: version.ready or version.error is not None or self._is_closed)
                version.was_started = True
                if not version.ready:
                    raise version.error or shutting_down()
        finally:
            self.release(version)

    def add(self, adapter: Adapter) -> Proof:
        """Make a value resident under its own name, proven live first; it goes before one of that name on the shelf.

        Raises AdapterError.
        """
        proof = prove(self.base, adapter, any_base=self._any_base)
        version = Version(adapter.name, adapter)
        resident = self.bank.lay_out(adapter, any_base=self._any_base)
        with self._lock:
            self._versions.append(version)
            self._current[adapter.name] = version
            self._settle(version, resident)
            self._touch(version)
            self._shrink()
        return proof

    def pin(self, name: str) -> None:
        """Keep an adapter resident from now on; loads it if need be. Raises AdapterError."""
        with self._lock:
            self._pinned.add(name)
            for version in self._versions:
                version.leaving = version.leaving and version.name != name
        try:
            self.load(name)
        except AdapterError:
            self.unpin(name)
            raise

    def unpin(self, name: str) -> None:
        """Let the adapter be evicted again."""
        with self._lock:
            self._pinned.discard(name)
            self._shrink()
            self._lock.notify_all()

    def unload(self, name: str) -> None:
        """Let an adapter go: at once, or when its requests have ended. Raises AdapterNotFoundError."""
        with self._lock:
            version = self._current.pop(name, None)
            self._pinned.discard(name)
            if version is None:
                resident = ", ".join(sorted(self._current)) or "none"
                raise AdapterNotFoundError(f"adapter {name!r} is not resident; resident: {resident}")
            self._shrink()
            self._lock.notify_all()

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
        """Load no more. Those who wait in `load` are told."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        self._wanted.put(None)

    def _added(self, name: str) -> Adapter | None:
        with self._lock:
            known = self._current.get(name)
        return known.source if known is not None and isinstance(known.source, Adapter) else None

    def _resident_bytes(self) -> int:
        return sum(v.bytes for v in self._versions)

    def _is_current(self, version: Version) -> bool:
        return self._current.get(version.name) is version

    def _want(self, version: Version) -> Version:
        self._current[version.name] = version
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
        compute_in_one_thread()
        while (version := self._next_wanted()) is not None:
            try:
                self._load_one(version)
            except KameleonError as error:
                self._give_up(version, error)
            except Exception as error:  # noqa: BLE001 (a file may hold anything; the waiting requests must hear of it)
                self._give_up(version, AdapterError(f"adapter {version.name!r} cannot be loaded: {error!r}"))
            self._on_change()

    def _next_wanted(self) -> Version | None:
        """The next one to load. While there is none, memory for it is allocated ahead."""
        try:
            return self._wanted.get(timeout=_IDLE_S)
        except queue.Empty:
            with self._lock:
                one = max((v.bytes for v in self._versions), default=0)
                fits = self._resident_bytes() + one <= self.budget_bytes  # else an evicted adapter's memory is used
            if fits:
                with contextlib.suppress(RuntimeError, MemoryError):  # the load itself will tell that memory is missing
                    self.bank.prepare()
            return self._wanted.get()

    def _load_one(self, version: Version) -> None:
        """Read a wanted version and give it a slot. If its files are gone, the shelf's version of now is taken."""
        while True:
            source = version.source
            assert isinstance(source, ShelfVersion)
            try:
                with reading_adapter(source.path, self._buffer) as read:
                    adapter = replace(read, name=version.name)
                    if not self._wait_for_room(version, self.base.compute_dtype.itemsize * adapter.parameters):
                        return
                    resident = self.bank.lay_out(adapter, any_base=self._any_base)
            except AdapterFileError:
                version.source = self.shelf.current(version.name)
                if version.source == source:
                    raise
            else:
                with self._lock:
                    self._settle(version, resident)
                    self._shrink()
                return

    def _wait_for_room(self, version: Version, size: int) -> bool:
        """Wait until `size` bytes fit. False if no request holds the version any more, which is then dropped."""
        with self._lock:
            self._lock.wait_for(lambda: not version.holders or self._has_room(size))
            if not version.holders:
                self._drop(version)
            return bool(version.holders)

    def _has_room(self, size: int) -> bool:
        """Evict, and tell whether `size` bytes fit. Beside pinned and added adapters one adapter always fits."""
        self._shrink(size)
        over = self._resident_bytes() + size - self.budget_bytes
        there = [v for v in self._versions if v.may_leave and v.name not in self._pinned]
        for version in sorted(there, key=lambda v: v.residence):
            if over > 0 and (version.leaving or version.was_started):
                version.leaving = True
                over -= version.bytes
        self._shrink(size)
        return self._resident_bytes() + size <= self.budget_bytes or not any(v.ready for v in there)

    def _settle(self, version: Version, resident: Resident | FrozenResident) -> None:
        self._residences += 1
        version.slot, version.residence = self.bank.place(resident), self._residences
        version.bytes, version.ready, version.was_started = self.bank.bytes(version.slot), True, False
        self._lock.notify_all()

    def _give_up(self, version: Version, error: KameleonError) -> None:
        with self._lock:
            version.error = error
            self._drop(version)
            self._lock.notify_all()

    def _shrink(self, needed_bytes: int = 0) -> None:
        """Evict: (1) superseded versions that no request holds, (2) versions marked leaving with nothing running,
        (3) over budget: versions that no request holds, least recently used first."""
        for version in [v for v in self._versions if v.ready]:
            if not version.holders and not self._is_current(version):
                self._drop(version)
            elif version.leaving and not version.running:
                self._vacate(version)
                if version.holders:
                    self._wanted.put(version)
                else:
                    self._drop(version)
        over = self._resident_bytes() + needed_bytes - self.budget_bytes
        if over <= 0:
            return
        idle = [v for v in self._versions if v.may_leave and not v.holders and v.name not in self._pinned]
        for version in sorted(idle, key=lambda v: v.used):
            if over > 0:
                over -= version.bytes
                self._drop(version)

    def _vacate(self, version: Version) -> None:
        version.ready, version.leaving, version.bytes = False, False, 0
        self.bank.free(version.slot)

    def _drop(self, version: Version) -> None:
        self._versions.remove(version)
        if self._is_current(version):
            del self._current[version.name]
        if version.ready:
            self._vacate(version)


@lru_cache(maxsize=1024)
def _system_prompt_of(version: ShelfVersion) -> str | None:
    """From its card, which is read once: a version on the shelf does not change."""
    found = read_card(version.path)
    return found and found[0].system_prompt
