"""The frozen base as one value, and the places that bases come from. It knows no adapter."""

from kameleon.bases.base import Base, load_base
from kameleon.bases.catalogue import CATALOGUE, Entry
from kameleon.bases.fetch import BaseFiles, HeaderFiles, list_bases, locate, locate_header
from kameleon.bases.places import reference_of

__all__ = [
    "CATALOGUE",
    "Base",
    "BaseFiles",
    "Entry",
    "HeaderFiles",
    "list_bases",
    "load_base",
    "locate",
    "locate_header",
    "reference_of",
]
