"""New adapters out of old ones, and what is in one: plain matrix arithmetic on values."""

from kameleon.adapters.arithmetic.combine import METHODS, combine
from kameleon.adapters.arithmetic.diff import ModuleDiff, diff
from kameleon.adapters.arithmetic.extract import Extraction, extract
from kameleon.adapters.arithmetic.merge import MergeReport, merge
from kameleon.adapters.arithmetic.overview import ModuleOverview, draw_norms, norms_by, overview
from kameleon.adapters.arithmetic.resize import Truncation, resize, total_error
from kameleon.adapters.arithmetic.spectrum import Spectrum, effective_rank, spectrum, spectrum_of

__all__ = [
    "METHODS",
    "Extraction",
    "MergeReport",
    "ModuleDiff",
    "ModuleOverview",
    "Spectrum",
    "Truncation",
    "combine",
    "diff",
    "draw_norms",
    "effective_rank",
    "extract",
    "merge",
    "norms_by",
    "overview",
    "resize",
    "spectrum",
    "spectrum_of",
    "total_error",
]
