"""The format of Kameleon's home, as a number in its file `format`: an older home is brought up to date, a newer one is
refused. A file that a migration changes is copied to the folder `before-format-N` first."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from kameleon.adapters.card import CARD_FILE, read_card
from kameleon.bases.places import note_place
from kameleon.errors import AdapterFileError, SettingError
from kameleon.home import FORMAT, atomic_write, format_of_home, home, is_current

_BACKUPS = "before-format-*"


def open_home() -> None:
    """Bring the home to today's format; one that does not exist yet needs nothing.

    Raises SettingError for a newer home and for one that cannot be brought up to date; nothing is lost then.
    """
    if is_current():
        return
    root, found = home(), format_of_home()
    if found > FORMAT:
        raise SettingError(
            f"Kameleon's folder {root} has format {found}, from a newer Kameleon; this one reads 0 to {FORMAT}: "
            "upgrade Kameleon, or name another folder with KAMELEON_HOME (nothing was changed)"
        )
    try:
        with FileLock(root / ".format.lock"):
            for number in range(found, FORMAT):
                _MIGRATIONS[number](root)
            with atomic_write(root / "format") as file:
                file.write(f"{FORMAT}\n".encode())
    except OSError as error:
        if any(root.glob(f"*/*/**/{CARD_FILE}")):
            raise SettingError(
                f"Kameleon's folder {root} cannot be brought to format {FORMAT}: {error}; make it writable, or name "
                "another folder with KAMELEON_HOME (nothing is lost)"
            ) from error


def backups() -> list[Path]:
    """Copies of what migrations changed."""
    return sorted(home().glob(_BACKUPS))


def _take_folders_out_of_cards(root: Path) -> None:
    """Write each card that holds a path of this machine without it. A card that cannot be read stays as it is."""
    for path in [*root.glob(f"adapters/*/*/{CARD_FILE}"), *root.glob(f"runs/*/best-*/{CARD_FILE}")]:
        with suppress(AdapterFileError):
            found = read_card(path.parent)
            written = json.loads(path.read_bytes())
            if found is None or (written["base_id"], written["data"]) == (found[0].base_id, found[0].data):
                continue
            card, hashes = found
            kept = root / "before-format-1" / path.relative_to(root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)
            if card.base_fingerprint and Path(written["base_id"] or "").is_absolute():
                note_place(card.base_fingerprint, Path(written["base_id"].removesuffix(" in nf4")))
            with atomic_write(path) as file:
                file.write(card.to_json(hashes).encode())


_MIGRATIONS = (_take_folders_out_of_cards,)
