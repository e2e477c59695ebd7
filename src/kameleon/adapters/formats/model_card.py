"""README.md of an export: a model card as the Hugging Face hub reads it, and as people do.

Its metadata are between two lines of ---; the rest says how the adapter was trained and how it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.formats.next_steps import Kind, next_steps
from kameleon.bases import Base
from kameleon.terminal import printable

README = "README.md"
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unlicense"),
    *("gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "openrail", "bigscience-openrail-m"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
)
"""Ids of licences that the hub knows; any other is "other" there, with its name."""

_PEFT_CODE = """```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained(".")  # this folder
```
"""
_PEFT_CODE_LOCAL = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("BASE")  # the folder of the base
model = PeftModel.from_pretrained(base, ".")  # this folder
```
"""
_CAREFUL = (
    "An adapter can hold parts of its training rows word for word, and answer with them. Share it only with people who "
    "may see the rows."
)


def adapter_readme(adapter: Adapter, kind: Kind) -> str:
    """The model card of an adapter that is exported as `kind`."""
    card = adapter.card
    metadata: dict[str, Any] = {"library_name": {"ollama": "gguf", "gguf": "gguf"}.get(kind, kind)}
    if card.base_hub_id:
        metadata |= {"base_model": card.base_hub_id, "base_model_relation": "adapter"}
    metadata |= licence_metadata(card.base_licence) | {"pipeline_tag": "text-generation", "tags": ["lora", "kameleon"]}
    base = card.base_hub_id or card.base_id or "a base that its files do not name"
    parts = [
        front_matter(metadata),
        f"# {adapter.name}\n",
        f"A LoRA adapter of {_plain(base)}, made with Kameleon. It needs that base.\n",
        "## How to use it\n",
        _PEFT_CODE if kind == "peft" and card.base_hub_id else _PEFT_CODE_LOCAL if kind == "peft" else "",
        "".join(f"    {printable(line)}\n" for step in next_steps(adapter, kind, ".") for line in step.splitlines()),
        *_system_prompt(adapter),
        "## How it was trained\n",
        _table(_facts(adapter)),
        "## Before you share it\n",
        _CAREFUL + "\n",
        licence_sentence(card.base_licence),
    ]
    return "\n".join(part for part in parts if part)


def merged_readme(adapter: Adapter, base: Base) -> str:
    """The model card of a full model in Hugging Face layout: `base` with `adapter` merged in."""
    card = replace(adapter.card, base_id=base.name, base_hub_id=base.hub_id, base_licence=base.licence)
    metadata: dict[str, Any] = {"library_name": "transformers"}
    if card.base_hub_id:
        metadata |= {"base_model": card.base_hub_id, "base_model_relation": "finetune"}
    metadata |= licence_metadata(card.base_licence) | {"pipeline_tag": "text-generation", "tags": ["kameleon"]}
    parts = [
        front_matter(metadata),
        f"# {adapter.name}\n",
        f"{_plain(card.base_hub_id or base.name)} with the LoRA adapter {adapter.name} merged in, by Kameleon.\n",
        *_system_prompt(adapter),
        "## How the adapter was trained\n",
        _table(_facts(adapter)),
        "## Before you share it\n",
        _CAREFUL.replace("An adapter", "A merged adapter") + "\n",
        licence_sentence(card.base_licence),
    ]
    return "\n".join(part for part in parts if part)


def front_matter(metadata: Mapping[str, Any]) -> str:
    """The metadata between two lines of ---; JSON's strings and lists are YAML's too."""
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in metadata.items()) + "---\n"


def licence_metadata(licence: str | None) -> dict[str, str]:
    """The hub's words for the licence of a base; nothing for None."""
    if licence is None:
        return {}
    name, _, link = licence.partition(" (")
    name = name.lower()
    if name in _LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": name} | ({"license_link": link.rstrip(")")} if link else {})


def licence_sentence(licence: str | None) -> str:
    """What holds for those who get the file."""
    if licence is None:
        return "The licence of the base is not known here: look it up, since it also holds for what is made from it.\n"
    return f"The licence of the base is {_plain(licence)}. It also holds for what is made from it.\n"


def _system_prompt(adapter: Adapter) -> list[str]:
    prompt = adapter.card.system_prompt
    if not prompt:
        return []
    quoted = "".join(f"    {printable(line)}\n" for line in prompt.splitlines())
    return [
        "## System prompt\n",
        "All its training rows had this system prompt. Give it in each conversation:\n",
        quoted,
    ]


def _facts(adapter: Adapter) -> dict[str, Any]:
    card = adapter.card
    ranks = sorted({factors.rank for factors in adapter.factors.values()})
    made = {"base": card.base_id, "fingerprint of the base": card.base_fingerprint, "parameters": adapter.parameters}
    made["rank"] = "–".join(map(str, sorted({ranks[0], ranks[-1]}))) if ranks else None
    parents = ", ".join(f"{p.name} × {p.weight:g} ({p.method})" for p in card.parents)
    made |= {"parents": parents or None, "created": card.created or None}
    made |= {f"data: {key}": value for key, value in card.data.items()}
    made |= {f"recipe: {key}": value for key, value in card.recipe.items() if not isinstance(value, dict)}
    made |= {f"score: {key}": value for key, value in card.scores.items()}
    return made | dict(card.versions)


def _table(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"| {_plain(key)} | {_plain(value)} |\n" for key, value in facts.items() if value is not None)
    return f"| | |\n|---|---|\n{rows}"


def _plain(value: Any) -> str:
    """A value for a line of Markdown, where it is only text: cards of strangers may hold links, pictures and HTML."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", printable(" ".join(str(value).split()))).replace("<", "&lt;")


def write_readme(text: str, folder: Path) -> None:
    """Write README.md into `folder`. A card of strangers may hold letters that are no text: they become question marks.

    Raises OSError."""
    (folder / README).write_bytes(text.encode(errors="replace"))
