"""Everything that can be set, as frozen values: each field with its default's reason, which is also its help text.

They stand apart from the code that they steer, so that help and defaults need no torch, which takes seconds to import.
"""

from kameleon.settings.generation import Sampling
from kameleon.settings.serving import HttpSettings, Limits
from kameleon.settings.training import DEFAULT_MICRO_BATCH_TOKENS, Execution, Recipe, Watch
from kameleon.settings.values import MOST_ALPHA, MOST_RANK, SEEDS, ComputeName, parse_bytes

__all__ = [
    "DEFAULT_MICRO_BATCH_TOKENS",
    "MOST_ALPHA",
    "MOST_RANK",
    "SEEDS",
    "ComputeName",
    "Execution",
    "HttpSettings",
    "Limits",
    "Recipe",
    "Sampling",
    "Watch",
    "parse_bytes",
]
