"""An adapter: its value, its card, and the shelf that keeps it. It knows bases, but no data and no training."""

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors, check_name
from kameleon.adapters.card import Card, Parent
from kameleon.adapters.proof import Check, Proof, prove, verify
from kameleon.adapters.shelf import Shelf, ShelfEntry, ShelfVersion

__all__ = [
    "Adapter",
    "Card",
    "Check",
    "EndChange",
    "LoraFactors",
    "Parent",
    "Proof",
    "Shelf",
    "ShelfEntry",
    "ShelfVersion",
    "check_name",
    "prove",
    "verify",
]
