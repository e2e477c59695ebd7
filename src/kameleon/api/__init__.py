"""The commands as Python: `kameleon.load(...)`, then `.train`, `.generate`, `.evaluate`, `.load_adapter`."""

from kameleon.api.loaded_base import LoadedBase, load

__all__ = ["LoadedBase", "load"]
