"""An adapter out of a full fine-tune: the truncated difference of its weights and the base's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors
from kameleon.adapters.arithmetic.resize import Truncation, truncation
from kameleon.adapters.arithmetic.spectrum import spectrum_of
from kameleon.adapters.card import Card
from kameleon.bases import Base
from kameleon.errors import AdapterMismatchError, SettingError
from kameleon.model import module_shapes
from kameleon.weights import EMBEDDING, HEAD, WeightFile
from kameleon.words import first_few

_EMBEDDING, _HEAD = f"{EMBEDDING}.weight", f"{HEAD}.weight"
_FREQUENCIES = ".rotary_emb.inv_freq"


@dataclass(frozen=True)
class Extraction:
    """What was kept of each module's change, and what no adapter can hold.

    `left_out`: ‖change‖ / ‖weight‖ of each tensor that changed but is no projection (embedding, norms, head, biases).
    """

    modules: dict[str, Truncation]
    left_out: dict[str, float]


def extract(
    base: Base, tuned: WeightFile, name: str, rank: int | None = None, error: float | None = None
) -> tuple[Adapter, Extraction]:
    """B A nearest to W_tuned − W_base in every projection that changed, by truncated SVD.

    Every module gets `rank` (less where the change itself has less; then it is exact), or the smallest rank whose error
    ‖Δ − B A‖ / ‖Δ‖ is at most `error`. Raises SettingError unless exactly one of the two is given,
    AdapterMismatchError when the tuned model has other tensors or sizes, holds NaN or infinity, or no projection of it
    changed, WeightsError.
    """
    if (rank is None) == (error is None) or (rank is not None and rank < 1) or not 0 <= (error or 0) < 1:
        raise SettingError(f"rank is {rank} and error {error}: give a rank of at least 1, or an error from 0 up to 1")
    pairs = _alike(base, tuned)
    factors: dict[str, LoraFactors] = {}
    kept: dict[str, Truncation] = {}
    for module, shape in module_shapes(base.config).items():
        delta = _change(base.weights, tuned, f"{module}.weight", shape)
        if not delta.any():
            continue
        whole = spectrum_of(delta)
        enough = whole.true_rank if error is None else whole.rank_for(1 - error**2)
        kept[module] = truncation(whole, min(enough, rank or enough))
        factors[module] = whole.truncated(kept[module].rank)
    if not factors:
        raise AdapterMismatchError(f"no projection of {tuned.path} differs from {base.name}: nothing to extract")
    projections = {f"{module}.weight" for module in module_shapes(base.config)}
    left_out = {}
    for tensor, own in pairs.items():
        if tensor not in projections:
            change = float(_change(base.weights, tuned, tensor, own=own).norm())
            if change:
                left_out[tensor] = change / max(float(base.weights.tensor(own).float().norm()), 1e-30)
    settings = {"method": "extract", "tuned": str(tuned.path), "tuned_fingerprint": tuned.fingerprint()}
    settings |= {"rank": rank} if error is None else {"error": error}
    card = Card.of_base(base, recipe=settings)
    return Adapter(name, factors, card), Extraction(kept, left_out)


def _alike(base: Base, tuned: WeightFile) -> dict[str, str]:
    """The tensors of the tuned model, each with that of the base which it takes the place of.

    Where the base's head is its embedding, either file may hold the head too; one that differs takes the embedding's
    place. Frequencies, which older files hold beside the weights, follow from the config.

    Raises AdapterMismatchError for other tensors or sizes.
    """
    tied = base.config.tie_word_embeddings
    ours = {name: name for name in base.weights.names() if not name.endswith(_FREQUENCIES)}
    if tied:
        ours.pop(_HEAD, None)
    theirs = {name for name in tuned.names() if not name.endswith(_FREQUENCIES)}
    if tied and _HEAD in theirs:
        if torch.equal(tuned.tensor(_HEAD), tuned.tensor(_EMBEDDING)):
            theirs.remove(_HEAD)
        else:
            ours[_HEAD] = _EMBEDDING
    faults = [f"it lacks {name}" for name in sorted(ours.keys() - theirs)]
    faults += [f"the base has no {name}" for name in sorted(theirs - ours.keys())]
    for name in sorted(ours.keys() & theirs):
        if base.weights.shape(ours[name]) != tuned.shape(name):
            faults.append(f"{name} is {tuned.shape(name)}, the base's {base.weights.shape(ours[name])}")
    if faults:
        shown = first_few(faults, 5, separator="; ")
        raise AdapterMismatchError(f"{tuned.path} is no fine-tune of {base.name}: {shown}")
    return ours


def _change(
    base: WeightFile, tuned: WeightFile, name: str, shape: tuple[int, ...] | None = None, *, own: str | None = None
) -> Tensor:
    change = tuned.tensor(name, shape).to(torch.float32) - base.tensor(own or name, shape).to(torch.float32)
    if not change.isfinite().all():
        raise AdapterMismatchError(f"{tuned.path}: {name} differs from the base's by NaN or infinity; it is broken")
    return change
