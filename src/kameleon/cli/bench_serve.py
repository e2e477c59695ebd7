"""kameleon bench serve: serving speed over HTTP, beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from kameleon.bench.serving import TITLES, ServeBenchSettings, run_serve_bench
from kameleon.cli.console import BaseRef, Json, notes, show, table, write_document

_ALL = ",".join(TITLES)
_RATIOS = {
    "mixed4_vs_base": "4 adapters mixed, of the base alone",
    "mixed16_vs_base": "16 adapters mixed, of the base alone",
    "mixed4_vs_peft": "4 adapters mixed, × PEFT's",
    "mixed16_vs_peft": "16 adapters mixed, × PEFT's",
    "mixed4_vs_llama_server": "4 adapters mixed, × llama-server's",
    "mixed4_vs_vllm": "4 adapters mixed, × vLLM's",
    "mixed4_vs_openvino_one_adapter": "4 adapters mixed, × OpenVINO's one for all",
    "base_vs_peft": "the base alone, × PEFT's",
    "base_vs_vllm": "the base alone, × vLLM's",
    "base_vs_openvino": "the base alone, × OpenVINO's",
    "one_stream_vs_llama_server": "one stream on the GGUF file, × llama-server's",
    "one_stream_adapter_vs_base": "one stream on the GGUF file with an adapter, of without",
}


def serve(
    *,
    contenders: Annotated[str, Parameter(help="Who takes part, by commas; Kameleon always does.")] = _ALL,
    base: BaseRef = "smollm2",
    settings: Annotated[ServeBenchSettings, Parameter(name="*")] = ServeBenchSettings(),  # noqa: B008 (frozen)
    out: Annotated[Path | None, Parameter(help="Write the JSON document here too.")] = None,
    json: Json = False,
) -> None:
    """Serve mixes of adapters over HTTP beside transformers + PEFT, llama-server, vLLM and OpenVINO GenAI.

    All are in memory at once and are asked in turn, with random prompts and adapters of random numbers. A GGUF base is
    unpacked to bf16 for all but llama-server, which gets the file itself, as one more Kameleon does.

    --base qwen2.5-1.5b-q4_0-random is written with random weights in that shape, and served as it lies, which of the
    others only llama-server can: --base qwen2.5-1.5b-q4_0-random --contenders kameleon --mixes base,16 --streams 16

    llama-server and vllm are looked for on PATH, or where KAMELEON_LLAMA_SERVER and KAMELEON_VLLM say; for OpenVINO
    KAMELEON_OPENVINO_PYTHON names the Python of an environment that has openvino-genai and optimum-intel.

    Try: kameleon bench serve --contenders peft --mixes base,4 --streams 1,16
    """

    def on_event(told: str) -> None:
        notes.print(told, highlight=False)

    document = run_serve_bench(base, contenders, settings, on_event=on_event)
    show(document, _picture(document), as_json=json)
    if out is not None:
        write_document(document, out)


def _picture(document: dict[str, Any]) -> Group:
    names = list(document["contenders"])
    shown = table("load", *(f">{TITLES[name]}" for name in names))
    for case in document["contenders"]["kameleon"]:
        rates = {name: document["contenders"][name].get(case) for name in names}
        missing = {name: "died" if document["died"].get(name) == case else "–" for name in names}
        shown.add_row(case, *(missing[name] if rate is None else f"{rate:,.0f}" for name, rate in rates.items()))
    shown.caption, shown.caption_justify = "tokens/s", "left"
    said = [f"{words}: {document[key]:.2f}" for key, words in _RATIOS.items() if document[key] is not None]
    said.append(
        f"switching to another resident adapter: {document['switch_ms']:+.1f} ms of {document['same_adapter_ms']:.1f}; "
        f"to one on disk: {document['cold_switch_ms']:+.1f} ms"
    )
    said += [f"{TITLES[name]}: {why}" for name, why in document["skipped"].items()]
    return Group(shown, Text("\n".join(said)))
