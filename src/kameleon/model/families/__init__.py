"""The families of decoders that are computed here, one file each.

A new file in this folder is found by itself. `FAMILIES` of tests/tiny.py gets a line for it, which compares the decoder
with transformers' own model.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from kameleon.model.family import Family
from kameleon.weights import GgufLayout

__all__ = ["families", "family_of_gguf", "gguf_layouts"]


@cache
def families() -> dict[str, Family]:
    """Every family by its name: the FAMILY of each file in this folder."""
    found: list[Family] = [import_module(f"{__name__}.{file.name}").FAMILY for file in iter_modules(__path__)]
    return {family.name: family for family in found}


def family_of_gguf(architecture: str) -> Family | None:
    """The family of GGUF files of this architecture: of several, the one whose name it is."""
    candidates = [family for family in families().values() if family.gguf.architecture == architecture]
    return min(candidates, key=lambda family: family.name != architecture, default=None)


@cache
def gguf_layouts() -> dict[str, GgufLayout]:
    """The layouts of all families by their architectures, to open a GGUF file with."""
    return {family.gguf.architecture: family.gguf for family in families().values()}
