"""The adapters that are resident now, laid out so that one call serves a batch that mixes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.fit import check_base, check_fit
from kameleon.adapters.resident.dora import renew_norms
from kameleon.adapters.resident.lay_out import adapted_ends, side_paths, trainable
from kameleon.adapters.resident.resident import FrozenResident, Resident, lowest_layer
from kameleon.bases import Base
from kameleon.errors import AdapterNotFoundError
from kameleon.model import AdaptedEnd, groups
from kameleon.ops import NO_ADAPTER, SidePath, SideTable


class Bank:
    """Slots of resident adapters over one base. Adding checks that the adapter belongs to the base and fits it.

    A `frozen` bank keeps its adapters in the compute type, half the memory in bf16; training wants one that is not.
    One thread may change slots while others compute with those that stay.
    """

    def __init__(self, base: Base, *, frozen: bool = False) -> None:
        self._base, self._frozen = base, frozen
        self._slots: list[Resident | FrozenResident | None] = []
        self._memory: deque[Tensor] = deque(maxlen=1)  # of the next table
        self._last_numbers = 0  # of the last table
        self._places = {
            (layer, group.name): layer * len(groups(base.config)) + at
            for layer in range(base.config.num_layers)
            for at, group in enumerate(groups(base.config))
        }

    def add(self, adapter: Adapter, *, any_base: bool = False) -> int:
        """Copy `adapter` into a slot (its own, if one of that name is resident) and return the slot.

        Raises WrongBaseError for an adapter of another base unless `any_base`, and AdapterMismatchError, naming every
        fault, when it does not fit.
        """
        slot = next((i for i, r in enumerate(self._slots) if r is not None and r.name == adapter.name), None)
        return self.place(self.lay_out(adapter, any_base=any_base), slot)

    def lay_out(self, adapter: Adapter, *, any_base: bool = False) -> Resident | FrozenResident:
        """A copy of `adapter` as this bank keeps them, not yet in a slot. Raises what `add` raises."""
        check_base(self._base, adapter, any_base=any_base)
        check_fit(self._base, adapter)
        if not self._frozen:
            return trainable(self._base, adapter)
        paths, ends = side_paths(self._base, adapter), adapted_ends(self._base, adapter)
        return FrozenResident(adapter.name, adapter.card, self._table(paths), ends, lowest_layer(paths, ends))

    def place(self, resident: Resident | FrozenResident, slot: int | None = None) -> int:
        """Put a result of `lay_out` into `slot`, or into a free one: several versions of one name may be resident."""
        if slot is None:
            slot = next((i for i, r in enumerate(self._slots) if r is None), len(self._slots))
        self._slots[slot : slot + 1] = [resident]
        return slot

    def free(self, slot: int) -> None:
        """Empty a slot that no request runs on; others keep their numbers. The next adapter may get its memory."""
        resident = self._slots[slot]
        if isinstance(resident, FrozenResident):
            self._memory.append(resident.table.memory)
        self._slots[slot] = None

    def prepare(self) -> None:
        """Pre-allocate a buffer of the last table's size, so that the next load pays no page faults: they may take
        several times as long as the load."""
        if not self._memory and self._last_numbers:
            self._memory.append(torch.zeros(self._last_numbers, dtype=self._base.compute_dtype))

    def renew(self, name: str) -> None:
        """Recompute the norms that divide the magnitudes of a resident adapter, after its numbers changed."""
        for (layer, group), side in self.resident(name).paths.items():
            renew_norms(self._base, layer, group, side)

    def remove(self, name: str) -> None:
        """Free the slot of `name`; other slots keep their numbers."""
        self.free(self.slot(name))

    def slot(self, name: str | None) -> int:
        """The slot of a resident adapter; None means the plain base. Raises AdapterNotFoundError."""
        if name is None:
            return NO_ADAPTER
        for slot, resident in enumerate(self._slots):
            if resident is not None and resident.name == name:
                return slot
        raise AdapterNotFoundError(f"adapter {name!r} is not resident; resident: {', '.join(self.names()) or 'none'}")

    def resident(self, name: str) -> Resident:
        """The resident adapter of that name, of a bank that is not frozen. Raises AdapterNotFoundError."""
        resident = self._slots[self.slot(name)]
        assert isinstance(resident, Resident)
        return resident

    def system_prompt(self, name: str | None) -> str | None:
        """The system prompt that a resident adapter was trained with, from its card; the plain base has none."""
        resident = None if name is None else self._slots[self.slot(name)]
        return None if resident is None else resident.card.system_prompt

    def bytes(self, slot: int) -> int:
        """Memory of the adapter in a slot."""
        resident = self._slots[slot]
        assert resident is not None
        return resident.bytes

    def names(self) -> list[str]:
        """Names of the resident adapters, in the order of their slots."""
        return [resident.name for resident in self._slots if resident is not None]

    def sides(self, layer: int, group: str) -> Sequence[SidePath | None]:
        """The factors in each slot for one joined projection (see `model.decoder.SidePaths`)."""
        return _Sides(self._slots, (layer, group), self._places[layer, group])

    def end(self, slot: int, name: str) -> AdaptedEnd | None:
        """The embedding or the head as the adapter in `slot` changes it (see `model.decoder.SidePaths`)."""
        resident = self._slots[slot]
        return None if resident is None else resident.ends.get(name)

    def table(self, slot: int) -> SideTable:
        """The factors in a slot as generation reads them; of a bank that is not frozen, a copy of what they are now."""
        resident = self._slots[slot]
        assert resident is not None, f"slot {slot} is empty"
        return resident.table if isinstance(resident, FrozenResident) else self._table(resident.paths)

    def is_plain(self, slot: int) -> bool:
        """Whether the adapter in `slot` has no more than A and B, so that all layers are one call."""
        resident = None if slot == NO_ADAPTER else self._slots[slot]
        if isinstance(resident, FrozenResident):
            return resident.table.is_plain
        return resident is None or not any(side.finishes for side in resident.paths.values())

    def lowest_layer(self, slot: int) -> int:
        """The lowest layer that the adapter in `slot` changes; the number of layers for the plain base."""
        resident = None if slot == NO_ADAPTER else self._slots[slot]
        if resident is None:
            return self._base.config.num_layers
        return resident.lowest_layer

    def _table(self, paths: Mapping[tuple[int, str], SidePath]) -> SideTable:
        try:
            memory = self._memory.pop()
        except IndexError:  # several threads may take it
            memory = None
        with torch.no_grad():
            table = SideTable([paths.get(place) for place in self._places], self._base.compute_dtype, memory)
        self._last_numbers = len(table.memory)
        return table


class _Sides(Sequence[SidePath | None]):
    """One joined projection's factors by slot, looked up when they are indexed."""

    def __init__(self, slots: Sequence[Resident | FrozenResident | None], place: tuple[int, str], index: int) -> None:
        self._slots, self._place, self._index = slots, place, index

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> SidePath | None:  # type: ignore[override]
        resident = self._slots[slot]
        if resident is None:
            return None
        if isinstance(resident, FrozenResident):
            return resident.table.side(self._index)
        return resident.paths.get(self._place)
