"""Rows that count, and the card of an adapter that learns them."""

import json

from kameleon.adapters import Card


def write_rows(path, count=40):
    rows = [
        {"prompt": f"What comes after {i % 10}?", "completion": f"It is {i % 10 + 1}, row {i}."} for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def card_of(loaded):
    """A card that names the loaded base."""
    return Card(base_id="tiny", base_fingerprint=loaded.base.fingerprint)
