"""kameleon adapter export: an adapter for another program, and the command with which that program takes it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kameleon.cli.answering import base_of
from kameleon.cli.console import AnyBase, Compute, in_one_line, notes, open_base
from kameleon.errors import SettingError
from kameleon.home import require_new

if TYPE_CHECKING:
    from kameleon.adapters import Adapter


def export(
    name: Annotated[str, Parameter(help="An adapter's name on the shelf.")],
    *,
    out: Annotated[
        Path, Parameter(help="A new folder; for gguf a new file, whose name gets .gguf if it has no ending.")
    ],
    to: Annotated[
        Literal["peft", "gguf", "ollama", "mlx"],
        Parameter(
            help="The library PEFT, also for vLLM; llama.cpp's file; that, the base and a Modelfile for Ollama; mlx-lm."
        ),
    ] = "peft",
    base: Annotated[
        str | None,
        Parameter(
            help="Its base, by default the one that its card names. For peft: the base's id on the Hugging Face hub, "
            "owner/name, where the card has none."
        ),
    ] = None,
    compute: Compute = None,
    any_base: AnyBase = False,
) -> None:
    """Write an adapter for another program, with a README.md that says how it was trained and how it is used.

    No file holds a path of this machine. The command with which the other program takes it is printed.

    Try: kameleon adapter export mine --to gguf --out mine.gguf; or kameleon adapter export mine --to ollama --out mine
    """
    from kameleon.adapters import Shelf, prove
    from kameleon.adapters.formats import next_steps, write_adapter, write_gguf_adapter, write_mlx_adapter, write_ollama

    adapter = Shelf().load(name)
    if to == "gguf" and out.suffix != ".gguf":
        out = out.with_name(f"{out.name}.gguf")
    require_new(out)
    base_file = "BASE.gguf"
    if to == "peft":
        if compute is not None:
            raise SettingError(f"--compute {compute} is for a base that is run; an export to peft runs none")
        adapter = _with_hub_id(adapter, base)
        write_adapter(adapter, out)
    else:
        loaded = open_base(*((base, None) if base else base_of(adapter, None)), compute=compute).base
        prove(loaded, adapter, any_base=any_base)
        {"gguf": write_gguf_adapter, "ollama": write_ollama, "mlx": write_mlx_adapter}[to](adapter, loaded, out)
        if loaded.files.path.is_file():
            base_file = str(loaded.files.path)
    notes.print(f"written to {out}", highlight=False)
    if adapter.card.system_prompt is not None:
        where = {"peft": "in kameleon.json beside it", "ollama": "SYSTEM of the Modelfile"}.get(
            to, "not in this format: give it to the program that answers"
        )
        told = f"system prompt of the adapter ({where}): {in_one_line(adapter.card.system_prompt)}"
        notes.print(told, highlight=False)
    for step in next_steps(adapter, to, str(out), base_file=base_file):
        notes.print(f"next: {step}", highlight=False)


def _with_hub_id(adapter: Adapter, base: str | None) -> Adapter:
    """The adapter with the id of its base that PEFT and vLLM load, which --base may give; tells what is not known."""
    from kameleon.bases import CATALOGUE

    known, given = adapter.card.base_hub_id, base
    if base in CATALOGUE:
        given = CATALOGUE[base].hub_id
    elif base is not None and (Path(base).expanduser().exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base)):
        given = None  # a folder or file of this machine, which would mean nothing on another
    if given and known and given != known:
        raise SettingError(f"adapter {adapter.name!r} was trained on {known}, not on {given}: leave --base out")
    if given and not known:
        notes.print(f"base_model_name_or_path is {given}, as you say: it is not compared with the base of the training")
        return replace(adapter, card=replace(adapter.card, base_hub_id=given))
    if not known:
        told = (
            f"base_model_name_or_path stays empty: the base {adapter.card.base_id or ''} has no id on the Hugging Face "
            "hub that is known here. PEFT and vLLM take the adapter when you name the base's folder to them; if the "
            "base is on the hub, export with --base owner/name"
        )
        notes.print(told, style="yellow", highlight=False)
    return adapter
