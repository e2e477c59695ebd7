"""Where local bases lie on this machine, by fingerprint: cards name a base without its folder."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kameleon.home import atomic_write, bases_dir

PACKED = " in "
"""Between a reference and how its matrices are packed, in the base's name: "tiny in nf4"."""


def _file() -> Path:
    return bases_dir() / "places.json"


def _noted() -> dict[str, Any]:
    try:
        noted = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def note_place(fingerprint: str, path: Path) -> None:
    """Remember where a local base lies. A folder that cannot be written is no error: --base names the base too."""
    noted = _noted()
    if noted.get(fingerprint) != str(path):
        with suppress(OSError), atomic_write(_file()) as file:
            file.write(json.dumps({**noted, fingerprint: str(path)}, indent=1).encode())


def reference_of(name: str, fingerprint: str | None = None) -> tuple[str, Literal["nf4"] | None]:
    """The `ref` and `quantize` that load the base of this name and fingerprint, as adapters' cards keep them."""
    ref = name.removesuffix(f"{PACKED}nf4")
    quantize = None if ref == name else "nf4"
    place = _noted().get(fingerprint or "")
    if isinstance(place, str) and Path(place).exists():
        return place, quantize
    return ref, quantize
