"""Kameleon: one frozen base model, many small LoRA adapters, on the computer you already own."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from kameleon.errors import KameleonError
from kameleon.settings import Execution, Reading, Recipe, Sampling, Watch
from kameleon.telemetry import switch_off
from kameleon.waiting import spin_shortly

spin_shortly()
switch_off()

__version__ = version("kameleon")
__all__ = [
    "Adapter",
    "Execution",
    "KameleonError",
    "LoadedBase",
    "Reading",
    "Recipe",
    "Sampling",
    "Shelf",
    "Watch",
    "load",
    "read_adapter",
    "write_adapter",
]

if TYPE_CHECKING:
    from kameleon.adapters import Adapter, Shelf
    from kameleon.adapters.formats import read_adapter, write_adapter
    from kameleon.api import LoadedBase, load
else:
    _HOMES = {
        "Adapter": "adapters",
        "Shelf": "adapters",
        "LoadedBase": "api",
        "load": "api",
        "read_adapter": "adapters.formats",
        "write_adapter": "adapters.formats",
    }

    def __getattr__(name):
        """Import a name that needs torch at its first use: torch takes seconds, and `kameleon --help` needs none."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
