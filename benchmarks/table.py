"""The README's tables, each written from results in benchmarks/ between two markers.

.venv/bin/python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- written by benchmarks/table.py from benchmarks/train_vs_peft.json -->"
END = "<!-- end of the table -->"
PEERS = {"vs_peft": "PEFT", "vs_peft_compiled": "PEFT compiled", "vs_trl": "TRL packed"}
_SIZES = {
    "4x512": "SmolLM2-135M, 4 × 512",
    "1x2048": "SmolLM2-135M, 1 × 2048",
    "1x8192": "SmolLM2-135M, 1 × 8192, activation checkpointing",
    "0.5B-1x512": "Qwen2.5-0.5B's shape, 1 × 512",
    "1.5B-1x512": "Qwen2.5-1.5B's shape, 1 × 512",
    "chat": "SmolLM2-135M, chats: 8 × 40–300",
}
_WIDTH = 120
HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GIANTS_BEGIN = "<!-- written by benchmarks/table.py from giants.json, giant_memory.json and plan_vs_actual.json -->"
_GIANTS = {
    "8B-Q4_K_M-1x512": "Llama 3 8B's shape in Q4_K_M",
    "8B-4-layers-1x512": "the same, its first four layers and head",
    "1.5B-Q4_0-1x512": "Qwen2.5-1.5B's shape in Q4_0",
}
_BESIDE = ("peft_nf4", "kameleon_unpacked")


def table_block(document: Mapping[str, Any]) -> str:
    """The table, and sentences on the machine and the settings, as Markdown."""
    columns = ["a step", "tokens/s", *(f"× {name}" for name in PEERS.values())]
    columns += ["multiple of the bare multiplications", "peak memory", "PEFT's"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, case in document["cases"].items():
        cells = [_SIZES.get(name, name), f"{case['tokens_per_s']:,.0f}"]
        cells += [_number(case[key], ".2f") for key in PEERS]
        cells += [_number(case["gemm_floor_multiple"], ".2f")]
        cells += [_gigabytes(case[key]) for key in ("peak_bytes", "peft_peak_bytes")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *wrapped(_sentences(document))])


def write_table(readme: Path, result: Path) -> None:
    """Put the table of `result` between the README's markers."""
    put_between(readme, BEGIN, END, table_block(_read(result)))


def giants_block(giants: Mapping[str, Any], memory: Mapping[str, Any], plans: Mapping[str, Any]) -> str:
    """Steps on packed bases, a run under a cap, and plans beside runs, as Markdown."""
    columns = [
        "a step of 1 × 512 tokens",
        "tokens/s",
        "× PEFT + NF4",
        "its time in plain bf16's",
        "peak memory",
        "PEFT's",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, title in _GIANTS.items():
        found = [one["cases"][name]["contenders"] for one in giants.values() if name in one["cases"]]
        if found:
            nf4, plain = ({k: v for c in found for k, v in c.get(who, {}).items()} for who in _BESIDE)
            cells = [title, f"{found[0]['kameleon']['tokens_per_s']:.1f}", _number(nf4.get("kameleon_is"), ".2f")]
            cells += [f"{1 / plain['kameleon_is']:.2f}" if plain else "–"]
            cells += [_gigabytes(found[0]["kameleon"]["peak_bytes"]), _gigabytes(nf4.get("peak_bytes"))]
            lines.append("| " + " | ".join(cells) + " |")
    first, (free, *capped) = next(iter(giants.values())), memory["runs"]
    gb = {key: f"{free[key] / 1e9:.2f} GB" for key in ("peak_bytes", "private_bytes")}
    said = [
        f"{_where(first)}; rank {first['settings']['rank']} on all linear layers, every token trained, activation",
        f"checkpointing for all, random weights; bitsandbytes {first['machine']['versions']['bitsandbytes']}.",
        f"Of the 8B file's {gb['peak_bytes']}, {gb['private_bytes']} were private; the rest is mapped from its",
        f"{memory['file_bytes'] / 1e9:.2f} GB.",
        *(_under_cap(free, one) for one in capped),
        f"Of {plans['of']} runs that were planned first, peak memory was within 10 % of its plan in",
        f"{plans['memory_within_goal']}, time within 20 % in {plans['time_within_goal']}",
        "(benchmarks/plan_vs_actual.json).",
    ]
    return "\n".join([*lines, "", *wrapped(" ".join(said))])


def _under_cap(free: Mapping[str, Any], capped: Mapping[str, Any]) -> str:
    return (
        f"In a control group of {capped['cap_bytes'] / 1e9:.0f} GB, page cache included, the same step took "
        f"{capped['step_s'][-1]:.0f} s instead of {free['step_s'][-1]:.0f} s, read {capped['read_bytes'] / 1e9:.0f} GB "
        f"from the disk, and swapped {capped['swapped_bytes']:,} bytes."
    )


def write_giants_table() -> None:
    """Put the table of giants between the README's markers."""
    put_between(README, GIANTS_BEGIN, END, giants_block(*giants_results()))


def giants_results() -> list[dict[str, Any]]:
    """The results from which the table of giants is written."""
    return [_read(HERE / f"{name}.json") for name in ("giants", "giant_memory", "plan_vs_actual")]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def put_between(readme: Path, begin: str, end: str, block: str) -> None:
    """Put `block` between two markers; `end` is the first one after `begin`."""
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    after = rest.split(end, 1)[1]
    readme.write_text(f"{before}{begin}\n{block}\n{end}{after}", encoding="utf-8")


def machine_words(document: Mapping[str, Any], libraries: Sequence[str]) -> str:
    """The machine and the versions of a result."""
    machine, versions = document["machine"], document["machine"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in libraries if versions[name])
    return (
        f"{machine['cores']} cores of {machine['cpu']} ({_units(machine)}), {document['threads']} threads; {named}; "
        f"commit {machine['commit']}."
    )


def _sentences(document: Mapping[str, Any]) -> str:
    machine, versions = document["machine"], document["machine"]["versions"]
    peers = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft", "trl") if versions[name])
    said = [
        f"{_where(document)};",
        f"rank {document['settings']['rank']} on all linear layers, every token trained; {peers};",
        f"commit {machine['commit']}.",
    ]
    gaps = [case["loss_gap"] for case in document["cases"].values() if case["loss_gap"] is not None]
    if gaps:
        said.append(f"Kameleon's and PEFT's losses differ by at most {max(gaps):.0e} of their value.")
    wide = [case.get("loss_gap_to_fp32") or {} for case in document["cases"].values()]
    if far := {
        name: max(gap) for name in ("kameleon", "peft") if (gap := [one[name] for one in wide if one.get(name)])
    }:
        parts = ", ".join(f"{'Kameleon' if name == 'kameleon' else 'PEFT'}'s by {gap:.0e}" for name, gap in far.items())
        said.append(f"From PEFT's in fp32 they differ by at most so much: {parts}.")
    said += [f"{_title(name)} {why}." for name, why in document["skipped"].items()]
    for case_name, case in document["cases"].items():
        said += [f"{_title(name)} stopped in {case_name}: {why}." for name, why in case["stopped"].items()]
    return " ".join(said)


def _where(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"{machine['cores']} cores of {machine['cpu']} ({_units(machine)}), {document['threads']} threads; "
        f"{document['dtype']} for all ({document['compute']})"
    )


def _title(contender: str) -> str:
    return PEERS.get(f"vs_{contender}", contender)


def _units(machine: Mapping[str, Any]) -> str:
    amx = "AMX" if "amx_tile" in machine["units"] else "no AMX"
    return f"{machine['cpu_capability']}, {amx}"


def wrapped(text: str) -> list[str]:
    """Lines of the README's width."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _gigabytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e9:.1f} GB"


if __name__ == "__main__":
    write_table(README, HERE / "train_vs_peft.json")
    write_giants_table()
