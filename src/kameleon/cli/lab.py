"""kameleon lab: the mathematics of LoRA on a toy layer, with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kameleon.cli.console import Json, notes, show
from kameleon.errors import MissingExtraError


def lab(
    *,
    out: Annotated[Path, Parameter(help="Where the pictures go.")] = Path("lab"),
    seed: Annotated[int, Parameter(help="Another seed, other random layers and inputs.")] = 0,
    json: Json = False,
) -> None:
    """The idea of LoRA in two minutes: what is trained, what is learned, and what is only memorised."""
    from kameleon.lab import explain, run_lab, save_pictures

    with notes.status("training toy layers, some seconds"):
        report = run_lab(seed=seed)
    try:
        pictures = save_pictures(report, out)
    except MissingExtraError as error:
        pictures = ()
        notes.print(str(error), style="yellow")
    document = {**report.to_json(), "pictures": [str(path) for path in pictures]}
    show(document, Text(explain(report)), as_json=json)
    for path in pictures:
        notes.print(f"picture: {path}", style="dim", highlight=False)
