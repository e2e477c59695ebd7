"""Kameleon: one frozen base model, many small LoRA adapters, on the computer you already own."""

from importlib.metadata import version

from kameleon.adapters import Adapter, Shelf
from kameleon.api import LoadedBase, load
from kameleon.errors import KameleonError
from kameleon.generation import Sampling
from kameleon.training import Recipe, Watch

__version__ = version("kameleon")
__all__ = ["Adapter", "KameleonError", "LoadedBase", "Recipe", "Sampling", "Shelf", "Watch", "load"]
