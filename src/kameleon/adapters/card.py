"""What an adapter says about itself: `kameleon.json`, beside PEFT's two files."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from kameleon.errors import AdapterFileError

_FORMAT = 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("kameleon", "torch", "transformers")}


@dataclass(frozen=True)
class Card:
    """Where an adapter comes from. Most of it is for people; the base's fingerprint is checked at every load."""

    base_id: str | None = None
    base_fingerprint: str | None = None
    """None for adapters that another program made without a card."""
    template_hash: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """Path, sha256, rows and trained tokens of what it was trained on."""
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    """Fingerprints of the adapters it was computed from."""
    created: str = field(default_factory=_now)
    versions: dict[str, str] = field(default_factory=_versions)

    def to_json(self) -> str:
        """The text of `kameleon.json`."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Card:
        """Read `kameleon.json` strictly. Raises AdapterFileError for broken JSON, an unknown key or a newer format."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise AdapterFileError(f"kameleon.json is not JSON: {error}") from error
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise AdapterFileError(
                f"kameleon.json is not of format {_FORMAT}; a newer Kameleon may be needed to read it"
            )
        known = {f.name for f in fields(Card)}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise AdapterFileError(f"kameleon.json has an unknown key {key!r}{hint}")
        return Card(**{**values, "parents": tuple(values.get("parents", ()))})
