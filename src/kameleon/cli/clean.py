"""kameleon clean: what lies about, how much room it takes, and its deletion after a question."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from kameleon.cli.console import Json, Yes, agreed, megabytes, notes, show, table
from kameleon.errors import AdapterError, SettingError


def clean(
    kinds: Annotated[
        list[Literal["runs", "caches", "versions", "unfinished", "history", "backups"]] | None,
        Parameter(
            help="runs: logs and curves of runs that have ended; caches: what is computed again when it is needed; "
            "versions: those of adapters that are not current; unfinished: runs that --resume could go on with; "
            "history: the lines that you typed in chat; "
            "backups: copies from before Kameleon changed the format of its folder. By default the first three."
        ),
    ] = None,
    *,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete what is not needed any more. Shows what and how much first, then asks.

    With --json nothing is asked: it lists, and deletes only with --yes. Adapters that are current, bases and your own
    files stay (`kameleon adapter remove`, `kameleon base remove`).

    Try: kameleon clean; or kameleon clean caches --yes
    """
    from kameleon.housekeeping import USUAL, leftovers

    found = leftovers()
    chosen = [one for one in found if one.kind in (kinds or USUAL)]
    kept = [one for one in found if one.kind not in (kinds or USUAL)]
    size_bytes = sum(one.size_bytes for one in chosen)
    shown = table("kind", "name", ">size")
    for one in chosen:
        shown.add_row(one.kind, one.name, megabytes(one.size_bytes))
    document = {
        "bytes": size_bytes,
        "deleted": yes,
        "found": [{"kind": o.kind, "name": o.name, "path": str(o.path), "bytes": o.size_bytes} for o in chosen],
    }
    for kind in sorted({one.kind for one in kept}):
        of_kind = [one.size_bytes for one in kept if one.kind == kind]
        notes.print(f"stays: {len(of_kind)} {kind} ({megabytes(sum(of_kind))}; kameleon clean {kind})", style="dim")
    if not json:
        show(document, shown if chosen else "nothing to delete", as_json=False)
    if not chosen or (json and not yes):
        if json:
            show(document, shown, as_json=True)
        return
    if not agreed(f"delete these {len(chosen)} ({megabytes(size_bytes)}) for good?", yes=yes):
        sys.exit(1)
    for one in chosen:
        try:
            one.delete()
        except (OSError, AdapterError) as error:
            raise SettingError(f"{one.path} cannot be deleted: {error}") from error
    notes.print(f"deleted: {megabytes(size_bytes)}", highlight=False)
    if json:
        show(document, shown, as_json=True)
