"""The README's table of serving speed, written from benchmarks/serve_vs_peers.json between two markers.

.venv/bin/python benchmarks/serve_table.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from table import END, machine_words, put_between, wrapped

BEGIN = "<!-- written by benchmarks/serve_table.py from benchmarks/serve_vs_peers.json -->"
LARGE = Path(__file__).parent / "serve_large_base.json"
"""The result of a larger base, without peers; benchmarks/README.md has the command."""
_COLUMNS = {
    "kameleon": "Kameleon, bf16",
    "peft": "transformers + PEFT",
    "vllm": "vLLM, CPU",
    "openvino": "OpenVINO GenAI",
    "kameleon_gguf": "Kameleon, Q4_1",
    "llama_server": "llama-server, Q4_1",
}
_MIXES = {
    "base": "the base",
    "1": "one adapter",
    "4": "4 adapters mixed",
    "16": "16 adapters mixed",
    "10": "10 adapters mixed",
    "1000": "1000 adapters by a power law",
}


def table_block(document: Mapping[str, Any]) -> str:
    """The table, and sentences on the machine and the settings, as Markdown."""
    present = [name for name in _COLUMNS if name in document["contenders"]]
    lines = ["| tokens/s | " + " | ".join(_COLUMNS[name] for name in present) + " |", "|" + "---|" * (len(present) + 1)]
    for case in document["contenders"]["kameleon"]:
        died = document.get("died", {})
        cells = [
            "died" if died.get(name) == case else _number(document["contenders"][name].get(case)) for name in present
        ]
        lines.append("| " + " | ".join([_case(case, document), *cells]) + " |")
    return "\n".join([*lines, "", *wrapped(_sentences(document))])


def write_table(readme: Path, result: Path) -> None:
    """Put the table of `result` between the README's markers."""
    put_between(readme, BEGIN, END, table_block(json.loads(result.read_text(encoding="utf-8"))))


def _case(case: str, document: Mapping[str, Any]) -> str:
    if case == "prefill":
        return f"reading a prompt of {document['settings']['prefill_tokens']} tokens"
    mix, streams = case.split(" × ")
    return f"{streams} stream{'' if streams == '1' else 's'}, {_MIXES[mix]}"


def _sentences(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    said = [
        machine_words(document, ("torch", "transformers", "peft")),
        f"Answers of {settings['tokens']} tokens after prompts of {settings['prompt_tokens']} random ones, rank "
        f"{settings['rank']} on all linear layers, median of {settings['rounds']} rounds.",
        f"Switching to another resident adapter took {document['switch_ms']:+.1f} ms of a request's "
        f"{document['same_adapter_ms']:.1f}, to one on disk {document['cold_switch_ms']:+.1f} ms.",
    ]
    if LARGE.exists():
        said.append(_large_sentence(json.loads(LARGE.read_text(encoding="utf-8"))))
    said += [f"{_COLUMNS[name]}: {why}." for name, why in document["skipped"].items()]
    return " ".join(said)


def _large_sentence(document: Mapping[str, Any]) -> str:
    rates = document["contenders"]["kameleon"]
    return (
        f"Random weights in the shape of Qwen2.5-1.5B, Q4_0: 16 streams of the base reached {rates['base × 16']:.0f} "
        f"tokens/s, 16 adapters mixed {rates['16 × 16']:.0f}, {document['mixed16_vs_base']:.2f} of that "
        "(benchmarks/serve_large_base.json)."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    here = Path(__file__).parent
    write_table(here.parent / "README.md", here / "serve_vs_peers.json")
