"""What an adapter says about itself: `kameleon.json`, beside PEFT's two files.

A card goes wherever its adapter goes, so it holds no folder of the machine that wrote it: paths become file names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kameleon import home
from kameleon.bases import CATALOGUE, Base, reference_of
from kameleon.errors import AdapterFileError
from kameleon.words import did_you_mean, short_repr

CARD_FILE = "kameleon.json"
_FORMAT = 3  # 2 added system_prompt, 3 base_hub_id and base_licence
_MOST_PROMPT_CHARACTERS = 1 << 20  # of a system prompt: more than the longest texts that bases here read
_LOCAL = re.compile(r"(?:[A-Za-z]:)?[/\\]|~|\.{1,2}[/\\]|file:")  # how a path of a machine begins
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("kameleon", "torch", "transformers")}


@dataclass(frozen=True)
class Parent:
    """An adapter that another was computed from, how much of it, and how."""

    name: str
    fingerprint: str
    weight: float
    method: str


@dataclass(frozen=True)
class Card:
    """Where an adapter comes from. Most of it is for people; the base's fingerprint is checked at every load."""

    base_id: str | None = None
    """The base's name: in the catalogue, on the hub, or that of its file or folder."""
    base_fingerprint: str | None = None
    """None for adapters that another program made without a card."""
    template_hash: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """File name or hub id, sha256, rows and trained tokens of its training data."""
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    """The adapters it was computed from, or the one its training went on from; the recipe has the settings of that."""
    system_prompt: str | None = None
    """The system message of every row that it was trained on, if they shared one: with it the adapter answers."""
    created: str = field(default_factory=_now)
    versions: dict[str, str] = field(default_factory=_versions)
    base_hub_id: str | None = None
    """The base on the Hugging Face hub, for PEFT and vLLM; None if it is not known."""
    base_licence: str | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        values = {"base_id": self.base_id, "base_hub_id": self.base_hub_id, "data": self.data}
        for name, value in values.items():
            object.__setattr__(self, name, _without_folders(value))
        if self.system_prompt is None:
            return
        if (count := len(self.system_prompt)) > _MOST_PROMPT_CHARACTERS:
            raise AdapterFileError(
                f"the system prompt has {count:,} characters; {CARD_FILE} keeps at most {_MOST_PROMPT_CHARACTERS:,}"
            )
        try:
            self.system_prompt.encode()
        except UnicodeEncodeError as error:
            raise AdapterFileError(f"the system prompt of {CARD_FILE} is not UTF-8: {error.reason}") from error

    @staticmethod
    def of_base(base: Base, **values: Any) -> Card:
        """A card that names `base`, with the other fields as given."""
        return Card(
            base.name,
            base.fingerprint,
            base.template.hash,
            base_hub_id=base.hub_id,
            base_licence=base.licence,
            **values,
        )

    def derived(self, parents: tuple[Parent, ...], recipe: dict[str, Any], system_prompt: str | None) -> Card:
        """A new card for what is computed from adapters of the same base: its own time, no data, no scores."""
        base = ("base_id", "base_fingerprint", "base_hub_id", "base_licence", "template_hash")
        kept = {name: getattr(self, name) for name in base}
        return Card(**kept, recipe=recipe, parents=parents, system_prompt=system_prompt)

    def to_json(self, files: Mapping[str, str] | None = None) -> str:
        """The text of `kameleon.json`; `files` are the sha256 of the files beside it, by name."""
        return json.dumps({"format": _FORMAT, "files": dict(files or {}), **asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Card:
        """Read `kameleon.json` strictly. Raises AdapterFileError for broken JSON, an unknown key or a newer format."""
        return _parse(text)[0]


def known_of_base(base_id: str | None) -> tuple[str | None, str | None]:
    """Hub id and licence of a base of which a file gives no more than the name, as far as the name says them."""
    ref = reference_of(base_id or "")[0]
    if entry := CATALOGUE.get(ref):
        return entry.hub_id, entry.licence
    return ref if _HUB_ID.fullmatch(ref) else None, None


def _without_folders(value: Any) -> Any:
    """The value, with the file name in place of each path of this machine in it."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, str) and _LOCAL.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def read_card(folder: Path) -> tuple[Card, dict[str, str]] | None:
    """A folder's card and the sha256 that the files beside it had; None without a card. Raises AdapterFileError."""
    path = folder / CARD_FILE
    return _parse(read_text(path)) if path.exists() else None


def read_text(path: Path) -> str:
    """A small text file beside an adapter. Raises AdapterFileError for one that is no text, or far too large."""
    try:
        return home.read_text(path)
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"{path} cannot be read: {error}") from error


def read_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object out of an untrusted file. Raises AdapterFileError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{what} is not JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise AdapterFileError(f"{what} holds a {type(values).__name__}, not an object")
    return values


def _check_format(given: object) -> None:
    if type(given) is not int or given < 1:
        raise AdapterFileError(f"{CARD_FILE} has format = {str(given)[:40]!r}; it must be a number from 1 to {_FORMAT}")
    if given > _FORMAT:
        raise AdapterFileError(
            f"{CARD_FILE} is of format {str(given)[:40]}, from a newer Kameleon; this one reads formats 1 to "
            f"{_FORMAT}: upgrade Kameleon to use this adapter"
        )


def _parse(text: str) -> tuple[Card, dict[str, str]]:
    values = read_json(text, CARD_FILE)
    files = values.pop("files", {})
    _check_format(values.pop("format", None))
    known = {f.name: f.type for f in fields(Card)}
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, known)
            raise AdapterFileError(f"{CARD_FILE} has an unknown key {key!r}{hint and '; ' + hint}")
        kind = dict if "dict" in str(known[key]) else list if key == "parents" else str
        if not isinstance(value, kind) and not (value is None and "None" in str(known[key])):
            raise AdapterFileError(f"{CARD_FILE} has {key} = {str(value)[:40]!r}; it must be a {kind.__name__}")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise AdapterFileError(f"{CARD_FILE} has files = {str(files)[:40]!r}; it must give a hash for each name")
    if "base_hub_id" not in values:  # up to format 2
        values["base_hub_id"], values["base_licence"] = known_of_base(values.get("base_id"))
    try:
        parents = tuple(Parent(**parent) for parent in values.pop("parents", ()))
    except TypeError as error:
        raise AdapterFileError(f"{CARD_FILE} does not say of each parent what is expected: {error}") from error
    return Card(**values, parents=parents), files
