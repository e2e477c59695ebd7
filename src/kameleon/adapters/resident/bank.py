"""The adapters that are resident now, laid out so that one call serves a batch that mixes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors
from kameleon.adapters.card import Card
from kameleon.bases import Base
from kameleon.errors import AdapterMismatchError, AdapterNotFoundError, WrongBaseError
from kameleon.model import AdaptedEnd, Group, Member, find_member, groups, module_shapes
from kameleon.ops import NO_ADAPTER, Branch, SidePath, SideTable
from kameleon.weights import EMBEDDING, FrozenWeight, ModuleName
from kameleon.words import first_few


@dataclass(frozen=True, eq=False)
class Resident:
    """One adapter in memory: all its numbers in `flat` [parameters] fp32, and the same memory as factors.

    Training steps on `flat`; the A factors of projections that share their input lie next to each other in it.
    """

    name: str
    card: Card
    flat: Tensor
    paths: dict[tuple[int, str], SidePath]
    modules: dict[str, LoraFactors]
    ends: dict[str, AdaptedEnd] = field(default_factory=dict)

    @property
    def lowest_layer(self) -> int:
        """The first layer that it changes; gradients need not go further down."""
        return _lowest_layer(self.paths, self.ends)

    @property
    def bytes(self) -> int:
        """Memory that it holds beside the base's."""
        return self.flat.nbytes + sum(end.bytes for end in self.ends.values())

    def factors(self) -> list[Tensor]:
        """Every view of `flat` that autograd should see, in the order of `flat`."""
        return [tensor for side in self.paths.values() for tensor in side.trained]

    def snapshot(self, card: Card) -> Adapter:
        """A copy as a value, with a new card."""

        def copy(f: LoraFactors) -> LoraFactors:
            extras = {name: tensor.detach().clone() for name, tensor in f.extras.items()}
            return replace(f, a=f.a.detach().clone(), b=f.b.detach().clone(), **extras)

        copied = {name: copy(f) for name, f in self.modules.items()}
        return Adapter(self.name, copied, card)


@dataclass(frozen=True, eq=False)
class FrozenResident:
    """One adapter in memory that will not be trained: its factors in the compute type alone."""

    name: str
    card: Card
    table: SideTable
    ends: dict[str, AdaptedEnd]
    lowest_layer: int

    @property
    def bytes(self) -> int:
        """Memory that it holds beside the base's."""
        return self.table.bytes + sum(end.bytes for end in self.ends.values())


class Bank:
    """Slots of resident adapters over one base. Adding checks that the adapter belongs to the base and fits it.

    A `frozen` bank keeps its adapters in the compute type, half the memory in bf16; training wants one that is not.
    One thread may change slots while others compute with those that stay.
    """

    def __init__(self, base: Base, frozen: bool = False) -> None:
        self._base, self._frozen = base, frozen
        self._slots: list[Resident | FrozenResident | None] = []
        self._memory: deque[Tensor] = deque(maxlen=1)  # of the next table
        self._last_numbers = 0  # of the last table
        self._places = {
            (layer, group.name): layer * len(groups(base.config)) + at
            for layer in range(base.config.num_layers)
            for at, group in enumerate(groups(base.config))
        }

    def add(self, adapter: Adapter, any_base: bool = False) -> int:
        """Copy `adapter` into a slot (its own, if one of that name is resident) and return the slot.

        Raises WrongBaseError for an adapter of another base unless `any_base`, and AdapterMismatchError, naming every
        fault, when it does not fit.
        """
        slot = next((i for i, r in enumerate(self._slots) if r is not None and r.name == adapter.name), None)
        return self.place(self.lay_out(adapter, any_base), slot)

    def lay_out(self, adapter: Adapter, any_base: bool = False) -> Resident | FrozenResident:
        """A copy of `adapter` as this bank keeps them, not yet in a slot. Raises what `add` raises."""
        check_base(self._base, adapter, any_base)
        check_fit(self._base, adapter)
        touched = _touched(self._base, adapter)
        if not self._frozen:
            return _lay_out(self._base, adapter, touched)
        # The table is the one copy; what it is made of stays where it was read to.
        paths = {path: _side_path(self._base, adapter, path, present) for path, present in touched.items()}
        ends = _ends(self._base, adapter)
        return FrozenResident(adapter.name, adapter.card, self._table(paths), ends, _lowest_layer(paths, ends))

    def place(self, resident: Resident | FrozenResident, slot: int | None = None) -> int:
        """Put what `lay_out` made into `slot`, or one that is free: several versions of one name may be resident."""
        if slot is None:
            slot = next((i for i, r in enumerate(self._slots) if r is None), len(self._slots))
        self._slots[slot : slot + 1] = [resident]
        return slot

    def free(self, slot: int) -> None:
        """Empty a slot that nothing runs on any more; others keep their numbers. The next one may get its memory."""
        resident = self._slots[slot]
        if isinstance(resident, FrozenResident):
            self._memory.append(resident.table.memory)
        self._slots[slot] = None

    def prepare(self) -> None:
        """Have memory ready for one more adapter like the last one: fetching it from the system may take several times
        as long as laying the adapter out in it."""
        if not self._memory and self._last_numbers:
            self._memory.append(torch.zeros(self._last_numbers, dtype=self._base.compute_dtype))

    def renew(self, name: str) -> None:
        """Take the norms anew by which the magnitudes of a resident adapter are divided, after its numbers changed."""
        for (layer, group), side in self.resident(name).paths.items():
            _renew(self._base, layer, group, side)

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
        """What the card of a resident adapter says it was trained with; the plain base has none."""
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
        """The factors in each slot for one joined projection (what the decoder asks for)."""
        return _Sides(self._slots, (layer, group), self._places[layer, group])

    def end(self, slot: int, name: str) -> AdaptedEnd | None:
        """What the adapter in `slot` makes of the embedding or the head (what the decoder asks for)."""
        resident = self._slots[slot]
        return None if resident is None else resident.ends.get(name)

    def table(self, slot: int) -> SideTable:
        """The factors in a slot as generation reads them; of a bank that is not frozen, a copy of what they are now."""
        resident = self._slots[slot]
        assert resident is not None, f"slot {slot} is empty"
        return resident.table if isinstance(resident, FrozenResident) else self._table(resident.paths)

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
    """One joined projection's factors by slot, looked up when they are asked for."""

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


def check_base(base: Base, adapter: Adapter, any_base: bool = False) -> None:
    """Raise WrongBaseError unless the adapter was trained on this very base (or says nothing and `any_base`)."""
    trained_on = adapter.card.base_fingerprint
    if any_base or trained_on == base.fingerprint:
        return
    if trained_on is None:
        raise WrongBaseError(
            f"adapter {adapter.name!r} does not say which base it was trained on (no kameleon.json); "
            f"if it belongs to {base.name}, allow it by name: any_base=True, or --any-base"
        )
    raise WrongBaseError(
        f"adapter {adapter.name!r} was trained on {adapter.card.base_id} ({trained_on[:19]}…), "
        f"this is {base.name} ({base.fingerprint[:19]}…); load its own base, or pass any_base=True, or --any-base"
    )


def misfits(base: Base, adapter: Adapter) -> list[str]:
    """Why an adapter does not fit a base: every name and shape that is not one of its projections."""
    shapes = module_shapes(base.config)
    faults = [f"{name}: the base has no such projection" for name in adapter.modules if name not in shapes]
    for name, factors in adapter.modules.items():
        if name in shapes and (got := (factors.b.shape[0], factors.a.shape[1])) != shapes[name]:
            faults.append(f"{name}: made for {got[0]} × {got[1]}, the base has {shapes[name][0]} × {shapes[name][1]}")
        faults += [
            f"{name}: its {f} has {len(t)} numbers" for f, t in factors.extras.items() if len(t) != len(factors.b)
        ]
    for name, bias in adapter.biases.items():
        if f"{name}.bias" not in base.weights.names() or name not in shapes:
            faults.append(f"{name}: it replaces a bias that the base has not")
        elif len(bias) != shapes[name][0]:
            faults.append(f"{name}: its bias has {len(bias)} numbers, the base's has {shapes[name][0]}")
    vocab = (base.config.vocab_size, base.config.hidden_size)
    for name, end in adapter.ends.items():
        if end.instead is not None and (got := tuple(end.instead.shape)) != vocab:
            faults.append(f"{name}: it replaces a matrix of {got[0]} × {got[1]}, the base has {vocab[0]} × {vocab[1]}")
        if end.factors is not None and (got := (end.factors.b.shape[0], end.factors.a.shape[1])) != vocab:
            faults.append(f"{name}: made for {got[0]} × {got[1]}, the base has {vocab[0]} × {vocab[1]}")
    if not (adapter.modules or adapter.ends):
        faults.append("it holds no module at all")
    return faults


def check_fit(base: Base, adapter: Adapter) -> None:
    """Raise AdapterMismatchError, naming all faults, unless every module of the adapter is one of the base's."""
    faults = misfits(base, adapter)
    if faults:
        shown = first_few(faults, 5, separator="; ")
        raise AdapterMismatchError(f"adapter {adapter.name!r} does not fit {base.name}: {shown}")


_Present = list[tuple[Member, str, LoraFactors]]
"""The projections of one group that an adapter touches, with their names and factors."""


def _touched(base: Base, adapter: Adapter) -> dict[tuple[int, str], _Present]:
    """By layer and group, in the order in which the base runs them."""
    return {
        (layer, group.name): present
        for layer in range(base.config.num_layers)
        for group in groups(base.config)
        if (present := [one for m in group.members if (one := _of_member(adapter, layer, m, group)) is not None])
    }


def _lay_out(base: Base, adapter: Adapter, touched: Mapping[tuple[int, str], _Present]) -> Resident:
    trained = ([f.a, f.b, *([] if f.magnitude is None else [f.magnitude])] for p in touched.values() for _, _, f in p)
    flat = torch.empty(sum(tensor.numel() for tensors in trained for tensor in tensors))
    at = 0

    def place(values: Tensor) -> Tensor:
        nonlocal at
        view = flat[at : at + values.numel()].view(values.shape)
        view.copy_(values)
        at += values.numel()
        return view

    paths: dict[tuple[int, str], SidePath] = {}
    modules: dict[str, LoraFactors] = {}
    for path, present in touched.items():
        paths[path] = side = _side_path(base, adapter, path, present, place)
        for (_, name, factors), branch, ranks in zip(present, side.branches, side.ranks, strict=True):
            if name in adapter.modules:
                modules[name] = replace(factors, a=side.a[ranks], b=branch.b, magnitude=branch.magnitude)
    return Resident(adapter.name, adapter.card, flat, paths, modules, _ends(base, adapter))


def _lowest_layer(paths: Mapping[tuple[int, str], SidePath], ends: Mapping[str, AdaptedEnd]) -> int:
    return 0 if EMBEDDING in ends else min((layer for layer, _ in paths), default=0)


def _ends(base: Base, adapter: Adapter) -> dict[str, AdaptedEnd]:
    return {name: _lay_out_end(base, name, end) for name, end in adapter.ends.items()}


def _lay_out_end(base: Base, name: str, end: EndChange) -> AdaptedEnd:
    own, dtype = base.decoder.embedding if name == EMBEDDING else base.decoder.head, base.compute_dtype
    # PEFT writes the frozen embedding under its factors: as long as it is the base's, nothing takes its place.
    instead = None if end.instead is None or torch.equal(own.dense(), end.instead.to(dtype)) else end.instead
    weight = own if instead is None else FrozenWeight(instead.to(dtype, copy=True), dtype=dtype)
    held = 0 if instead is None else instead.numel()
    if end.factors is None:
        return AdaptedEnd(weight, held_numbers=held)
    a, b = end.factors.a, end.factors.b
    if name == EMBEDDING:  # a row of B is looked up, and multiplied with A
        a = a.T
    a_weight, b_weight = (FrozenWeight(f.to(dtype, copy=True).contiguous(), dtype=dtype) for f in (a, b))
    return AdaptedEnd(weight, a_weight, b_weight, end.factors.scaling, held + a.numel() + b.numel())


def _side_path(
    base: Base,
    adapter: Adapter,
    path: tuple[int, str],
    present: _Present,
    place: Callable[[Tensor], Tensor] = lambda values: values,
) -> SidePath:
    """The joined side path of one group; `place` says where its numbers are kept."""
    several = [factors.a for _, _, factors in present]
    a, branches = place(several[0] if len(several) == 1 else torch.cat(several)), []
    for member, name, factors in present:
        b = place(factors.b)
        magnitude = None if factors.magnitude is None else place(factors.magnitude)
        norm = None if magnitude is None else torch.empty_like(magnitude)
        shift = _shift(base, name, factors, adapter.biases.get(name))
        branches.append(Branch(b, member.start, member.stop, factors.scaling, magnitude, norm, shift))
    side = SidePath(a, tuple(branches))
    _renew(base, *path, side)
    return side


def _of_member(adapter: Adapter, layer: int, member: Member, group: Group) -> tuple[Member, str, LoraFactors] | None:
    """A projection with its name and factors, if the adapter touches it; zeros where it only replaces the bias."""
    name = str(ModuleName(layer, member.name))
    if name in adapter.modules:
        return member, name, adapter.modules[name]
    if name in adapter.biases:
        nothing = LoraFactors(torch.zeros(1, group.in_size), torch.zeros(member.stop - member.start, 1), 1.0)
        return member, name, nothing
    return None


def _shift(base: Base, module: str, factors: LoraFactors, bias: Tensor | None) -> Tensor | None:
    """What is added to the module's output; the base's own bias, which the decoder adds, is taken off."""
    shift = None if factors.b_bias is None else factors.scaling * factors.b_bias
    if bias is not None:
        instead = bias - base.weights.tensor(f"{module}.bias").float()
        shift = instead if shift is None else shift + instead
    return shift


def weight_norms(base: Base, module: str) -> Tensor:
    """‖W‖ of each row of a projection, [out] fp32: the magnitudes of a DoRA adapter that changes nothing."""
    name = ModuleName.parse(module)
    group, member = find_member(base.config, name.member)
    squares = base.decoder.layers[name.layer].weight(group.name).row_squares
    return squares[member.start : member.stop].sqrt()


@torch.no_grad()
def _renew(base: Base, layer: int, group: str, side: SidePath) -> None:
    """‖W + s B A‖ of each row into each branch with a magnitude: ‖W‖² + 2 s ⟨B, W Aᵀ⟩ + s² ⟨B A Aᵀ, B⟩ and its root."""
    if all(branch.norm is None for branch in side.branches):
        return
    weight = base.decoder.layers[layer].weight(group)
    squares, products = weight.row_squares, weight.project(side.a)  # [out]; A Wᵀ [ranks, out]
    for branch, ranks in zip(side.branches, side.ranks, strict=True):
        if branch.norm is not None:
            a, b, rows = side.a[ranks], branch.b, slice(branch.start, branch.stop)
            crossed = (b * products[ranks, rows].T).sum(1)
            own = (b @ (a @ a.T) * b).sum(1)
            branch.norm.copy_((squares[rows] + 2 * branch.scaling * crossed + branch.scaling**2 * own).sqrt())
