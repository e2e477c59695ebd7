"""kameleon adapter merge, combine, resize, extract, diff: new adapters and models from those that exist."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from kameleon.cli.console import (
    AnyBase,
    BaseRef,
    Compute,
    Json,
    Overwrite,
    in_one_line,
    megabytes,
    notes,
    open_base,
    show,
    table,
)
from kameleon.errors import SettingError

if TYPE_CHECKING:
    from kameleon.adapters import Adapter
    from kameleon.adapters.arithmetic import Truncation

Name = Annotated[str, Parameter(help="The new adapter's name on the shelf.")]
DifferentBases = Annotated[bool, Parameter(help="Accept adapters of different bases.")]
Method = Literal[
    "linear",
    "cat",
    "svd",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune_svd",
]


def register(app: App) -> None:
    """Add the commands of this file to `kameleon adapter`."""
    for command in (merge, combine, resize, extract, diff):
        app.command(command)


def merge(
    adapter: Annotated[str, Parameter(help="An adapter on the shelf.")],
    *,
    out: Annotated[
        Path, Parameter(help="A new folder in Hugging Face layout; from a .gguf base also a new .gguf file.")
    ],
    base: BaseRef = "smollm2",
    compute: Compute = None,
    unpacked: Annotated[
        bool,
        Parameter(help="Write the changed weights of a .gguf, or all of a folder, in BF16."),
    ] = False,
    requantise: Annotated[
        str | None,
        Parameter(help="Write them in this kind: such as Q8_0 from a .gguf, BF16, F16 or F32 from a folder."),
    ] = None,
    whole: Annotated[bool, Parameter(help="Write the matrices that do not change in that kind too.")] = False,
    any_base: AnyBase = False,
    json: Json = False,
) -> None:
    """Write base and adapter as one full model, and measure the cost in logits and in lost change.

    Try: kameleon adapter merge mine --base org/model --out merged; or, for llama.cpp or Ollama,
    kameleon adapter merge mine --out mine.gguf --requantise Q8_0 --whole
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import merge as merged
    from kameleon.adapters.formats import steps_after_merge

    if unpacked and requantise:
        raise SettingError("--unpacked and --requantise exclude each other: give one")
    kind = "BF16" if unpacked else requantise
    one = Shelf().load(adapter)
    report = merged(open_base(base, compute=compute).base, one, out=out, kind=kind, any_base=any_base, whole=whole)
    shown = table("", "")
    shown.add_row("written", str(report.path))
    shown.add_row("merged modules", str(report.modules))
    shown.add_row("survived of the change", f"{report.survived:.1%}")
    worst = min(report.survived_by_module, key=lambda module: report.survived_by_module[module])
    shown.add_row("least of all", f"{report.survived_by_module[worst]:.1%} in {worst}")
    gap = f"at most {report.logit_gap_max:.4f}, on average {report.logit_gap_mean:.4f}"
    shown.add_row("logits, merged from live", f"{gap} (the adapter moves them by up to {report.logits_moved_max:.3f})")
    if one.card.system_prompt is not None:
        told = "not in the model, so give it to the program that answers"
        shown.add_row("system prompt of the adapter", f"{told}: {in_one_line(one.card.system_prompt)}")
    show({**asdict(report), "path": str(report.path)}, shown, as_json=json)
    for step in steps_after_merge(out):
        notes.print(f"next: {step}", highlight=False)


def combine(
    adapters: Annotated[list[str], Parameter(help="Adapters on the shelf: NAME, or NAME=WEIGHT (negative subtracts).")],
    *,
    name: Name,
    method: Annotated[
        Method,
        Parameter(help="cat is the exact sum; svd the nearest to it of --rank; the others as in PEFT."),
    ] = "cat",
    rank: Annotated[int | None, Parameter(help="For svd methods; by default the largest of the ranks.")] = None,
    density: Annotated[
        float | None, Parameter(help="The share of numbers that ties, dare and magnitude_prune keep.")
    ] = None,
    seed: Annotated[int, Parameter(help="Which numbers dare drops.")] = 0,
    any_base: DifferentBases = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make one adapter out of several: their weighted sum, or an approximation of it.

    Try: kameleon adapter combine law=0.7 polish=0.3 --name both --method svd --rank 16
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import combine as combined

    parts = [_name_and_weight(spec) for spec in adapters]
    loaded, weights = [Shelf().load(part) for part, _ in parts], [weight for _, weight in parts]
    made = combined(
        loaded, name, weights=weights, method=method, rank=rank, density=density, seed=seed, any_base=any_base
    )
    _keep(made, {}, overwrite=overwrite, as_json=json)


def resize(
    adapter: Annotated[str, Parameter(help="An adapter on the shelf.")],
    *,
    name: Name,
    rank: Annotated[int | None, Parameter(help="The rank of every module.")] = None,
    budget: Annotated[int | None, Parameter(help="Or how many numbers in all, spread where they keep most.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make the nearest adapter of another rank, and say how near it is.

    Try: kameleon adapter resize law --rank 4 --name law-4
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import resize as resized
    from kameleon.adapters.arithmetic import total_error

    made, lost = resized(Shelf().load(adapter), name, rank, budget)
    notes.print(_kept_table(lost))
    found = {"error": total_error(lost), "kept": {m: asdict(part) for m, part in lost.items()}}
    _keep(made, found, overwrite=overwrite, as_json=json)


def extract(
    tuned: Annotated[Path, Parameter(help="A full fine-tune of the base: a folder, or a .gguf file.")],
    *,
    name: Name,
    base: BaseRef = "smollm2",
    rank: Annotated[int | None, Parameter(help="The rank of every module.")] = None,
    error: Annotated[
        float | None, Parameter(help="Or the smallest ranks that leave at most this share of each module's norm.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make an adapter from the changes of a full fine-tune, and say how much of them it holds.

    Try: kameleon adapter extract my-finetune --base org/model --rank 32 --name mine
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import extract as extracted
    from kameleon.adapters.arithmetic import total_error
    from kameleon.model import open_weights

    if not overwrite:
        Shelf().require_free(name)
    made, report = extracted(open_base(base).base, open_weights(tuned), name, rank, error)
    notes.print(_kept_table(report.modules))
    for tensor, share in report.left_out.items():
        notes.print(f"not in the adapter: {tensor} changed by {share:.2%} of its norm", style="yellow")
    kept = {module: asdict(part) for module, part in report.modules.items()}
    found = {"error": total_error(report.modules), "left_out": report.left_out, "kept": kept}
    _keep(made, found, overwrite=overwrite, as_json=json)


def diff(
    a: Annotated[str, Parameter(help="An adapter on the shelf.")],
    b: Annotated[str, Parameter(help="Another.")],
    *,
    json: Json = False,
) -> None:
    """Compare two adapters module by module: norms, cosine, and the angles between the spaces they read and write.

    Angles are the least and the greatest principal angle in degrees: 0 is a shared direction, 90 none. A module is
    named by its layer's number and its name in the layer.
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import diff as compared
    from kameleon.weights import ModuleName

    found = compared(Shelf().load(a), Shelf().load(b))
    shown = table("module", f">‖{a}‖", f">‖{b}‖", ">‖difference‖", ">cosine", ">write\nangles", ">read\nangles")
    for module, part in found.items():
        numbers = (part.norm_a, part.norm_b, part.distance, part.cosine)
        spans = (f"{s[0]:.0f}–{s[-1]:.0f}°" if s else "" for s in (part.out_angles, part.in_angles))
        shown.add_row(ModuleName.parse(module).in_layer, *("" if n is None else f"{n:.3g}" for n in numbers), *spans)
    show({module: asdict(part) for module, part in found.items()}, shown, as_json=json)


def _name_and_weight(spec: str) -> tuple[str, float]:
    name, given, weight = spec.partition("=")
    try:
        return name, float(weight) if given else 1.0
    except ValueError:
        raise SettingError(f"{spec!r}: the weight after = must be a number, as in {name}=0.5") from None


def _kept_table(parts: dict[str, Truncation]) -> Any:
    shown = table("module", ">rank", ">norm", ">error", ">energy kept")
    for module, part in parts.items():
        shown.add_row(module, str(part.rank), f"{part.norm:.3g}", f"{part.error:.2%}", f"{part.energy:.2%}")
    return shown


def _keep(adapter: Adapter, found: dict[str, Any], *, overwrite: bool, as_json: bool) -> None:
    """Put a computed adapter on the shelf, and show its path, rank and size, and `found` in the document."""
    from kameleon.adapters import Shelf

    path = Shelf().save(adapter, overwrite=overwrite)
    ranks = sorted({factors.rank for factors in adapter.modules.values()})
    document = {"name": adapter.name, "path": str(path), "ranks": ranks, "parameters": adapter.parameters, **found}
    error = f", error {found['error']:.2%} of the change" if "error" in found else ""
    rank = "–".join(map(str, sorted({ranks[0], ranks[-1]})))
    shown = f"{adapter.name}: {len(adapter.modules)} modules of rank {rank}{error}"
    show(document, f"{shown}\n{path} ({megabytes(4 * adapter.parameters)})", as_json=as_json)
