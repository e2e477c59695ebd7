"""A base's name, its id on the Hugging Face hub and its licence, as far as its files say. None of them holds a folder
of this machine, so adapters' cards and exports may carry them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from kameleon.bases.catalogue import CATALOGUE
from kameleon.weights import GgufFile, WeightFile

_IN_HUB_CACHE = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\][^/\\]+")
_ON_HUB = re.compile(r"(?:https?://(?:huggingface\.co|hf\.co)/)?([\w.-]+/[\w.-]+)/?")
_SOURCE_KEYS = ("general.source.repo_url", "general.source.huggingface.repository", "general.source.url")
_MOST_CHARACTERS = 200  # of a licence: a file of strangers may hold anything


@dataclass(frozen=True)
class Provenance:
    """`hub_id` is the base in Hugging Face layout, which PEFT and vLLM load; None where the files do not say."""

    name: str
    hub_id: str | None
    licence: str | None


def provenance_of(ref: str, path: Path, weights: WeightFile) -> Provenance:
    """What is known of the base that `ref` names and whose files lie in `path`.

    A full fine-tune names the base that it began with in its config and its README, so these are no source of the id.
    """
    if ref in CATALOGUE:
        return Provenance(ref, CATALOGUE[ref].hub_id, CATALOGUE[ref].licence)
    if isinstance(weights, GgufFile):
        said = [_ON_HUB.fullmatch(str(weights.metadata.get(key))) for key in _SOURCE_KEYS]
        hub_id = next((match[1] for match in said if match), None)
        return Provenance(path.stem, hub_id, _one_line(weights.metadata.get("general.license")))
    cached = _IN_HUB_CACHE.search(str(path))
    hub_id = f"{cached[1]}/{cached[2]}" if cached else None
    return Provenance(hub_id or path.name, hub_id, _licence_in(path / "README.md"))


def _licence_in(readme: Path) -> str | None:
    try:
        data = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception:  # noqa: BLE001  YAML of strangers: any error means that it does not say
        return None
    named = data.get("license_name") if data.get("license") == "other" else None
    link = data.get("license_link") if named else None
    licence = _one_line(named or data.get("license"))
    return f"{licence} ({link})" if licence and isinstance(link, str) and link.startswith("https://") else licence


def _one_line(licence: object) -> str | None:
    return " ".join(licence.split())[:_MOST_CHARACTERS] or None if isinstance(licence, str) else None
