"""kameleon adapter: list, show, verify and import the adapters on the shelf."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from kameleon.cli.console import (
    AnyBase,
    BaseRef,
    Compute,
    Json,
    Overwrite,
    Quantize,
    Yes,
    agreed,
    bars,
    megabytes,
    notes,
    open_base,
    show,
    table,
)
from kameleon.cli.flags import in_flags

if TYPE_CHECKING:
    from kameleon.adapters import Card

app = App(name="adapter", help="The adapters on the shelf.")
Name = Annotated[str, Parameter(help="An adapter's name on the shelf.")]


def _as_text(value: Any) -> str:
    """A value for people: "none" for what is missing or empty, a line for each entry of a table, commas in a list."""
    if isinstance(value, dict):
        lines = (f"{key.replace('_', ' ')}: {_as_text(inner).replace(chr(10), '; ')}" for key, inner in value.items())
        return "\n".join(lines) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_as_text(inner).replace("\n", "; ") for inner in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _held_out_loss(card: Card | None) -> str:
    """The loss that a card gives, if that is a number; cards of others may hold anything."""
    loss = card.scores.get("eval_loss") if card else None
    return f"{loss:.3f}" if isinstance(loss, int | float) else ""


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the adapters on the shelf with their base, size and held-out loss."""
    from kameleon.adapters import Shelf

    entries = Shelf().entries()
    shown = table("name", "base", ">size", ">held-out loss", "made")
    for entry in entries:
        if entry.fault:
            shown.add_row(entry.name, in_flags(f"broken: {entry.fault}"), megabytes(entry.bytes), "", "")
            continue
        card = entry.card
        made = card.created if card else ""
        base = (card.base_id or "unknown") if card else "unknown"
        shown.add_row(entry.name, base, megabytes(entry.bytes), _held_out_loss(card), made)
    document = [
        {
            "name": e.name,
            "path": str(e.path),
            "bytes": e.bytes,
            "fault": e.fault and in_flags(e.fault),
            "card": e.card and asdict(e.card),
        }
        for e in entries
    ]
    show(document, shown if entries else "the shelf is empty: kameleon train puts an adapter on it", as_json=json)


@app.command(name="show")
def show_adapter(
    name: Name,
    *,
    picture: Annotated[
        Path | None, Parameter(help="Draw the norms, layers × projections, as a PNG into this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show an adapter's card, how large its change is in each layer, and how many directions hold most of it.

    Try: kameleon adapter show mine --picture mine.png
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters.arithmetic import draw_norms, effective_rank, norms_by, overview

    adapter = Shelf().load(name)
    parts = overview(adapter)
    ranks, needed = sorted({part.rank for part in parts.values()}), effective_rank(adapter)
    document = {
        "name": name,
        "modules": len(adapter.modules),
        "ranks": ranks,
        "effective_rank": needed,
        "variants": adapter.variants,
        "parameters": adapter.parameters,
        "dead_modules": adapter.dead_modules,
        "fingerprint": adapter.fingerprint,
    }
    facts = table("", "")
    for key, value in {**document, **asdict(adapter.card)}.items():
        facts.add_row(key.replace("_", " "), _as_text(value))
    trained = "–".join(map(str, sorted({ranks[0], ranks[-1]})))
    summary = f"\nrank {trained} trained, 90 % of the change lies in rank {needed}\n"
    layers, kinds = (bars(norms_by(parts, axis), where) for axis, where in enumerate(("layer", "projection")))
    if picture:
        draw_norms(name, parts, picture)
    document |= {"card": asdict(adapter.card), "spectra": {m: asdict(part) for m, part in parts.items()}}
    show(document, Group(facts, summary, kinds, "", layers), as_json=json)


@app.command
def verify(
    name: Name,
    *,
    base: BaseRef = "smollm2",
    quantize: Quantize = None,
    compute: Compute = None,
    any_base: AnyBase = False,
    json: Json = False,
) -> None:
    """Prove that an adapter is whole, fits its base, is live on it, and leaves the base as it is.

    Exit status 0 when every check holds, 1 when one does not, 2 when the adapter cannot be read.
    """
    from kameleon.adapters import Shelf
    from kameleon.adapters import verify as checked

    adapter = Shelf().load(name)
    checks = checked(open_base(base, quantize, compute=compute).base, adapter, any_base=any_base)
    hashed = "as it was saved" if adapter.card.created else "readable (no card: made by another program)"
    shown = table("", "check", "found")
    shown.add_row(Text("yes", "green"), "files", hashed)
    for check in checks:
        mark = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("–", "yellow")}[check.holds]
        shown.add_row(mark, check.what, Text(check.found))
    holds = all(check.holds for check in checks)
    show({"adapter": name, "live": holds, "checks": [asdict(check) for check in checks]}, shown, as_json=json)
    if not holds:
        sys.exit(1)


@app.command
def history(name: Name, *, json: Json = False) -> None:
    """List the versions that a name has had; saving under a name that is taken keeps the earlier ones."""
    from kameleon.adapters import Shelf

    shown = table("", ">version", "made", ">size", ">held-out loss", "path")
    versions = Shelf().history(name)
    for entry in versions:
        made = entry.card.created if entry.card else in_flags(entry.fault or "")
        mark = "current" if entry.current else ""
        shown.add_row(
            mark,
            str(entry.version),
            made,
            megabytes(entry.bytes),
            _held_out_loss(entry.card),
            str(entry.path),
        )
    document = [
        {
            "version": e.version,
            "current": e.current,
            "path": str(e.path),
            "bytes": e.bytes,
            "fault": e.fault and in_flags(e.fault),
            "card": e.card and asdict(e.card),
        }
        for e in versions
    ]
    show(document, shown, as_json=json)


@app.command
def rollback(
    name: Name, version: Annotated[int | None, Parameter(help="By default the one before the current.")] = None
) -> None:
    """Make an earlier version the current one. Nothing is deleted: give a later number to come back."""
    from kameleon.adapters import Shelf

    notes.print(f"{name} is version {Shelf().rollback(name, version)} now", highlight=False)


@app.command(name="import")
def import_(
    path: Annotated[Path, Parameter(help="A folder in PEFT's or mlx-lm's format, or a .gguf file of llama.cpp's.")],
    *,
    name: Name,
    base: Annotated[str | None, Parameter(help="Its base: proven on it, then named in its card.")] = None,
    compute: Compute = None,
    overwrite: Overwrite = False,
) -> None:
    """Put an adapter that another program made, or that somebody gave you, on the shelf.

    With --base it must be live on that base, whose fingerprint then goes into its card.

    Try: kameleon adapter import downloads/law --name law --base smollm2
    """
    from kameleon.adapters import Shelf, prove
    from kameleon.adapters.formats import is_mlx_adapter, read_adapter, read_gguf_adapter, read_mlx_adapter
    from kameleon.errors import AdapterMismatchError, SettingError

    if compute is not None and base is None:
        raise SettingError(f"--compute {compute} is for a base that is run: give --base too")
    loaded = open_base(base, compute=compute).base if base else None
    if path.suffix == ".gguf":
        if loaded is None:
            raise SettingError(f"{path} does not say how its base orders rows: give --base")
        adapter = read_gguf_adapter(path, loaded, name)
    elif is_mlx_adapter(path):
        adapter = read_mlx_adapter(path, name)
    else:
        adapter = read_adapter(path, name=name)
    if loaded is not None:
        if not prove(loaded, adapter, any_base=adapter.card.base_fingerprint is None).live:
            raise AdapterMismatchError(f"{path} changes nothing on {loaded.name}: it was never trained, or is damaged")
        known = {"base_hub_id": loaded.hub_id, "base_licence": loaded.licence}
        card = replace(adapter.card, base_id=loaded.name, base_fingerprint=loaded.fingerprint, **known)
        adapter = replace(adapter, card=card)
    notes.print(f"{name} is on the shelf: {Shelf().save(adapter, overwrite=overwrite)}", highlight=False)


@app.command
def remove(name: Name, *, yes: Yes = False) -> None:
    """Delete an adapter from the shelf with all its versions, for good."""
    from kameleon.adapters import Shelf

    path = Shelf().folder(name)
    if not agreed(f"delete {path} with all versions?", yes=yes):
        sys.exit(1)
    Shelf().remove(name)
    notes.print(f"{name} is deleted, with all its versions", highlight=False)
