"""An adapter folded into a full model on disk, and how much of it survived that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors
from kameleon.adapters.arithmetic.unpacked_folder import write_unpacked_folder
from kameleon.adapters.fit import check_base, check_fit
from kameleon.adapters.formats.model_card import merged_readme
from kameleon.adapters.proof import probe_logits
from kameleon.bases import Base, load_base
from kameleon.errors import AdapterError, AdapterMismatchError, SettingError
from kameleon.home import require_new
from kameleon.ops import StoredMatrix
from kameleon.weights import EMBEDDING, HEAD, GgufFile, SafetensorsFolder, WeightFile, copy_folder, copy_gguf
from kameleon.weights.copies import as_stored, read_stored
from kameleon.weights.kinds import FLOATS


@dataclass(frozen=True)
class MergeReport:
    """What merging did.

    `survived` is ⟨Q(W + Δ) − Q(W), Δ⟩ / ⟨Δ, Δ⟩ over all modules, Q being the rounding to what is written: 1 is all of
    the change, 0 none; `survived_by_module` the same for each. `logit_gap_*` compare the merged model, loaded from what
    was written, with base and adapter side by side on a probe text; `logits_moved_max` is how far the adapter moves
    them at all.
    """

    path: Path
    modules: int
    survived: float
    survived_by_module: dict[str, float]
    logit_gap_max: float
    logit_gap_mean: float
    logits_moved_max: float


def merge(
    base: Base, adapter: Adapter, *, out: Path, kind: str | None = None, any_base: bool = False, whole: bool = False
) -> MergeReport:
    """Write W + Δ as a full model to `out`; the base itself is only read.

    A base in Hugging Face layout gives such a folder, sharded as it is; with a `kind` of BF16, F16 or F32 all weights
    are of that type, else of their own. A `.gguf` base gives a `.gguf` file,
    in which the matrices that change are of `kind` (one of `weights.WRITABLE`; BF16 is an unpacked copy) and all other
    tensors keep their bytes; to any other name a folder in Hugging Face layout, in BF16 unless `kind` says F16 or F32.
    With `whole` every matrix is of `kind`. Where the base is quantised, a kind must be given:
    rounding eats part of the change. Raises WeightsError where a merged number is too large for its type.
    Raises SettingError without one, or when `out` exists or does not fit its disk; WrongBaseError and
    AdapterMismatchError as `Bank.add` does; AdapterError when it cannot be written.
    """
    check_base(base, adapter, any_base=any_base)
    check_fit(base, adapter)
    require_new(out)
    weights, shares = base.weights, _Survivors()
    biases = _merged_biases(base, adapter)

    def fresh(round_trip: Callable[[str, Tensor], Tensor]) -> dict[str, Callable[[], Tensor]]:
        def maker(module: str, change: LoraFactors | EndChange, stored: str) -> Callable[[], Tensor]:
            return lambda: shares.merged(module, _plain(weights, stored), change, lambda w: round_trip(stored, w))

        changes = {**adapter.modules, **_merged_ends(base, adapter)}
        matrices = {f"{m}.weight": maker(m, change, _stored_name(base, m)) for m, change in changes.items()}
        return matrices | {name: partial(biases.__getitem__, name) for name in biases}

    try:
        if isinstance(weights, SafetensorsFolder):
            if whole or kind not in (None, *FLOATS):
                raise SettingError(f"{base.name} is not quantised: merge without a kind, or as {', '.join(FLOATS)}")
            dtype = lambda name: FLOATS[kind] if kind else weights.tensor(name).dtype  # noqa: E731
            written = fresh(lambda name, w: w.to(dtype(name)).float())
            copy_folder(weights, out, written, kind=kind, readme=merged_readme(adapter, base))
        elif isinstance(weights, GgufFile) and out.suffix != ".gguf":
            if whole or kind not in (None, *FLOATS):
                raise SettingError(
                    f"the folder {out} can hold {', '.join(FLOATS)}; {kind or 'whole'} is for a .gguf file"
                )
            number = FLOATS[kind or "BF16"]
            written = fresh(lambda _, w: w.to(number).float())
            write_unpacked_folder(base, out, written, kind=kind or "BF16", readme=merged_readme(adapter, base))
        elif isinstance(weights, GgufFile):
            chosen = kind or _float_kind(base, adapter)
            trip = lambda name, w: read_stored(as_stored(w, chosen, name), chosen, tuple(w.shape))  # noqa: E731
            copy_gguf(weights, out, kind=chosen, fresh=fresh(trip), whole=whole)
        else:
            raise SettingError(
                f"{base.name} is packed from {weights.path}: merge into that folder itself, without `quantize='nf4'` "
                "and with `any_base=True`, or keep the adapter separate"
            )
    except OSError as error:
        raise AdapterError(f"the merged model cannot be written to {out}: {error}") from error
    plain, live = probe_logits(base, adapter, any_base=any_base)
    gap = (probe_logits(load_base(str(out), base.compute_dtype))[0] - live).abs()
    return MergeReport(
        out,
        len(adapter.modules) + len(adapter.ends),
        shares.overall,
        shares.by_module,
        float(gap.max()),
        float(gap.mean()),
        float((live - plain).abs().max()),
    )


def _merged_ends(base: Base, adapter: Adapter) -> dict[str, EndChange]:
    """What changes at the ends; a base whose head is its embedding gets a head of its own."""
    untied = {HEAD: EndChange()} if adapter.ends and base.config.tie_word_embeddings else {}
    return untied | adapter.ends


def _stored_name(base: Base, module: str) -> str:
    """The tensor that a module multiplies with."""
    return f"{EMBEDDING if module == HEAD and base.config.tie_word_embeddings else module}.weight"


def _merged_biases(base: Base, adapter: Adapter) -> dict[str, Tensor]:
    """The biases that take the place of the base's, by tensor name."""
    merged = dict(adapter.biases)
    for module, factors in adapter.modules.items():
        if factors.b_bias is not None:
            if f"{module}.bias" not in base.weights.names():
                raise AdapterMismatchError(f"{module} would need a bias, and {base.name} has none: it cannot be merged")
            own = merged.get(module, base.weights.tensor(f"{module}.bias").float())
            merged[module] = own + factors.scaling * factors.b_bias
    return {f"{module}.bias": bias for module, bias in merged.items()}


def _plain(weights: WeightFile, name: str) -> Tensor:
    """W in fp32, in Hugging Face order."""
    rows, columns = weights.shape(name)
    stored = weights.matrix(name, (rows, columns))
    return stored.dense() if isinstance(stored, StoredMatrix) else stored.float()


def _float_kind(base: Base, adapter: Adapter) -> str:
    """The kind in which a `.gguf` base holds all projections that change, if it is a plain float."""
    changed = {_stored_name(base, module) for module in (*adapter.modules, *_merged_ends(base, adapter))}
    file = base.weights
    assert isinstance(file, GgufFile)
    kinds = {tensor.kind for tensor, _ in file.stored_tensors if file.layout.hf_name(tensor.name) in changed}
    if len(kinds) == 1 and kinds <= FLOATS.keys():
        return kinds.pop()
    raise SettingError(
        f"{base.name} is quantised ({', '.join(sorted(kinds))}), and rounding to its blocks eats part of the change: "
        "keep the adapter separate (it is applied exactly), or merge into an unpacked copy (`kind='BF16'`), "
        "or pack the "
        "changed weights anew (`kind=KIND`), which tells how much survived"
    )


class _Survivors:
    """Merged matrices, and what of each change is left of it after rounding."""

    def __init__(self) -> None:
        self.by_module: dict[str, float] = {}
        self._kept = self._wanted = 0.0

    @property
    def overall(self) -> float:
        return self._kept / self._wanted if self._wanted else 1.0

    def merged(
        self, module: str, weight: Tensor, change: LoraFactors | EndChange, round_trip: Callable[[Tensor], Tensor]
    ) -> Tensor:
        whole = change.merged(weight)
        delta = change.delta() if isinstance(change, LoraFactors) and change.magnitude is None else whole - weight
        if not torch.isfinite(whole).all():
            raise AdapterMismatchError(f"{module} would hold NaN or infinity when merged; the adapter is broken")
        kept = float(((round_trip(whole) - round_trip(weight)).double() * delta).sum())
        wanted = float(delta.double().square().sum())
        self._kept, self._wanted = self._kept + kept, self._wanted + wanted
        self.by_module[module] = kept / wanted if wanted else 1.0
        return whole
