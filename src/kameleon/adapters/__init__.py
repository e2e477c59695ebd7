"""Adapters: as values, on disk, and resident beside a base. It knows bases, but no data and no training."""

from kameleon.adapters.adapter import Adapter, EndChange, LoraFactors, check_name
from kameleon.adapters.bank import Bank, Resident, check_base, weight_norms
from kameleon.adapters.card import Card, Parent
from kameleon.adapters.combine import METHODS, combine
from kameleon.adapters.diff import ModuleDiff, diff
from kameleon.adapters.extract import Extraction, extract
from kameleon.adapters.gguf_adapter import read_gguf_adapter, write_gguf_adapter
from kameleon.adapters.merge import MergeReport, merge
from kameleon.adapters.mlx_files import is_mlx_adapter, read_mlx_adapter, write_mlx_adapter
from kameleon.adapters.ollama import modelfile, write_ollama
from kameleon.adapters.overview import ModuleOverview, draw_norms, norms_by, overview
from kameleon.adapters.proof import Check, Proof, prove, verify
from kameleon.adapters.resize import Truncation, resize, total_error
from kameleon.adapters.shelf import Shelf, ShelfEntry, ShelfVersion
from kameleon.adapters.spectrum import Spectrum, effective_rank, spectrum, spectrum_of

__all__ = [
    "METHODS",
    "Adapter",
    "Bank",
    "Card",
    "Check",
    "EndChange",
    "Extraction",
    "LoraFactors",
    "MergeReport",
    "ModuleDiff",
    "ModuleOverview",
    "Parent",
    "Proof",
    "Resident",
    "Shelf",
    "ShelfEntry",
    "ShelfVersion",
    "Spectrum",
    "Truncation",
    "check_base",
    "check_name",
    "combine",
    "diff",
    "draw_norms",
    "effective_rank",
    "extract",
    "is_mlx_adapter",
    "merge",
    "modelfile",
    "norms_by",
    "overview",
    "prove",
    "read_gguf_adapter",
    "read_mlx_adapter",
    "resize",
    "spectrum",
    "spectrum_of",
    "total_error",
    "verify",
    "weight_norms",
    "write_gguf_adapter",
    "write_mlx_adapter",
    "write_ollama",
]
