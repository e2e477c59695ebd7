"""Whether an adapter belongs to a base, and whether its modules are the base's."""

from __future__ import annotations

from collections.abc import Collection

from kameleon.adapters.adapter import Adapter
from kameleon.bases import Base
from kameleon.errors import AdapterMismatchError, WrongBaseError
from kameleon.model import DecoderConfig, module_shapes
from kameleon.words import first_few


def check_base(base: Base, adapter: Adapter, *, any_base: bool = False) -> None:
    """Raise WrongBaseError unless the adapter was trained on this very base (or says nothing and `any_base`)."""
    trained_on = adapter.card.base_fingerprint
    if any_base or trained_on == base.fingerprint:
        return
    if trained_on is None:
        raise WrongBaseError(
            f"adapter {adapter.name!r} does not say which base it was trained on (no kameleon.json); "
            f"if it belongs to {base.name}, allow it by name: `any_base=True`"
        )
    raise WrongBaseError(
        f"adapter {adapter.name!r} was trained on {adapter.card.base_id} ({trained_on[:19]}…), "
        f"this is {base.name} ({base.fingerprint[:19]}…); load its own base, or pass `any_base=True`"
    )


def misfits(config: DecoderConfig, tensors: Collection[str], adapter: Adapter) -> list[str]:
    """Why an adapter does not fit a base: every name and shape that is not one of its projections.

    `tensors` are the names of the base's.
    """
    shapes = module_shapes(config)
    faults = [f"{name}: the base has no such projection" for name in adapter.modules if name not in shapes]
    for name, factors in adapter.modules.items():
        if name in shapes and (got := (factors.b.shape[0], factors.a.shape[1])) != shapes[name]:
            faults.append(f"{name}: made for {got[0]} × {got[1]}, the base has {shapes[name][0]} × {shapes[name][1]}")
        faults += [
            f"{name}: its {f} has {len(t)} numbers" for f, t in factors.extras.items() if len(t) != len(factors.b)
        ]
    for name, bias in adapter.biases.items():
        if f"{name}.bias" not in tensors or name not in shapes:
            faults.append(f"{name}: it replaces a bias that the base does not have")
        elif len(bias) != shapes[name][0]:
            faults.append(f"{name}: its bias has {len(bias)} numbers, the base's has {shapes[name][0]}")
    vocab = (config.vocab_size, config.hidden_size)
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
    check_shapes(base.name, base.config, base.weights.names(), adapter)


def check_shapes(base: str, config: DecoderConfig, tensors: Collection[str], adapter: Adapter) -> None:
    """`check_fit` for the base of that name, of which only the header is read."""
    faults = misfits(config, tensors, adapter)
    if faults:
        shown = first_few(faults, 5, separator="; ")
        raise AdapterMismatchError(f"adapter {adapter.name!r} does not fit {base}: {shown}")
