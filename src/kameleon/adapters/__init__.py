"""Adapters: as values, on disk, and resident beside a base. It knows bases, but no data and no training."""

from kameleon.adapters.adapter import Adapter, LoraFactors, check_name
from kameleon.adapters.bank import Bank, Resident
from kameleon.adapters.card import Card
from kameleon.adapters.proof import Proof, prove
from kameleon.adapters.shelf import Shelf, ShelfEntry

__all__ = [
    "Adapter",
    "Bank",
    "Card",
    "LoraFactors",
    "Proof",
    "Resident",
    "Shelf",
    "ShelfEntry",
    "check_name",
    "prove",
]
