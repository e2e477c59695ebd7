"""Adapters in memory beside a base, ready for a mixed batch."""

from kameleon.adapters.resident.bank import Bank, Resident, check_base, weight_norms

__all__ = [
    "Bank",
    "Resident",
    "check_base",
    "weight_norms",
]
