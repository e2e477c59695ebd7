"""kameleon adapter: what is on the shelf, and proof that it is live."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from kameleon.cli.console import BaseRef, Json, megabytes, open_base, show, table

app = App(name="adapter", help="The adapters on the shelf.")
Name = Annotated[str, Parameter(help="An adapter's name on the shelf.")]


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the adapters on the shelf with their base, size and held-out loss."""
    from kameleon.adapters import Shelf

    entries = Shelf().entries()
    shown = table("name", "base", ">size", ">held-out loss", "made")
    for entry in entries:
        if entry.fault:
            shown.add_row(entry.name, f"broken: {entry.fault}", megabytes(entry.bytes), "", "")
            continue
        card = entry.card
        loss = card.scores.get("eval_loss") if card else None
        made = card.created if card else ""
        base = (card.base_id or "unknown") if card else "unknown"
        shown.add_row(entry.name, base, megabytes(entry.bytes), "" if loss is None else f"{loss:.3f}", made)
    document = [
        {"name": e.name, "path": str(e.path), "bytes": e.bytes, "fault": e.fault, "card": e.card and asdict(e.card)}
        for e in entries
    ]
    show(document, shown if entries else "the shelf is empty: kameleon train puts an adapter on it", json)


@app.command(name="show")
def show_adapter(name: Name, *, json: Json = False) -> None:
    """Show an adapter's modules, numbers and card."""
    from kameleon.adapters import Shelf

    adapter = Shelf().load(name)
    ranks = sorted({factors.rank for factors in adapter.modules.values()})
    document = {
        "name": name,
        "modules": len(adapter.modules),
        "ranks": ranks,
        "parameters": adapter.parameters,
        "dead_modules": adapter.dead_modules,
        "fingerprint": adapter.fingerprint,
        "card": asdict(adapter.card),
    }
    shown = table("", "")
    card = document.pop("card")
    for key, value in {**document, **asdict(adapter.card)}.items():
        shown.add_row(key.replace("_", " "), str(value))
    show({**document, "card": card}, shown, json)


@app.command
def verify(
    name: Name,
    *,
    base: BaseRef = "smollm2",
    any_base: Annotated[bool, Parameter(help="Accept an adapter that was trained on another base.")] = False,
    json: Json = False,
) -> None:
    """Prove that an adapter is live on a base: keys matched, dead layers named, logits moved.

    Exit status 0 when it is, 1 when it changes nothing, 2 when it does not fit or belongs to another base.
    """
    proof = open_base(base).load_adapter(name, any_base)
    shown = table("", "")
    shown.add_row("live", "yes" if proof.live else "no: it changes nothing")
    shown.add_row("matched modules", str(proof.matched_modules))
    shown.add_row("dead modules", ", ".join(proof.dead_modules) or "none")
    shown.add_row("logits moved", f"at most {proof.logits_moved_max:.3f}, on average {proof.logits_moved_mean:.3f}")
    show({**asdict(proof), "live": proof.live}, shown, json)
    if not proof.live:
        sys.exit(1)


@app.command
def remove(name: Name, *, yes: Annotated[bool, Parameter(help="Do not ask.")] = False) -> None:
    """Delete an adapter from the shelf, for good."""
    from kameleon.adapters import Shelf

    path = Shelf().path(name)
    if not yes and input(f"delete {path}? [y/N] ").strip().lower() != "y":
        sys.exit(1)
    Shelf().remove(name)
