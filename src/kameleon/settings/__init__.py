"""Everything that can be set, as frozen values: each field with its default's reason, which is also its help text.

`None` means that a value is derived. Nothing here imports torch, which takes seconds: help and defaults do not need it.
"""

from kameleon.settings.generation import Form, Sampling
from kameleon.settings.reading import Reading
from kameleon.settings.serving import HttpSettings, Limits
from kameleon.settings.training import DEFAULT_MICRO_BATCH_TOKENS, Execution, Recipe, Watch
from kameleon.settings.values import MOST_ALPHA, MOST_BYTES, MOST_RANK, SEEDS, ComputeName, parse_bytes

__all__ = [
    "DEFAULT_MICRO_BATCH_TOKENS",
    "MOST_ALPHA",
    "MOST_BYTES",
    "MOST_RANK",
    "SEEDS",
    "ComputeName",
    "Execution",
    "Form",
    "HttpSettings",
    "Limits",
    "Reading",
    "Recipe",
    "Sampling",
    "Watch",
    "parse_bytes",
]
