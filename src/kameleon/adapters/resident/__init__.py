"""Adapters in memory beside a base, ready for a mixed batch."""

from kameleon.adapters.resident.bank import Bank
from kameleon.adapters.resident.dora import weight_norms
from kameleon.adapters.resident.resident import FrozenResident, Resident

__all__ = ["Bank", "FrozenResident", "Resident", "weight_norms"]
