"""Text from prompts: sequences, their schedule, pages of keys and values, sampling, and the step over a mixed batch."""

from kameleon.generation.grammars import Grammars, grammars_of
from kameleon.generation.loop import generate, stream
from kameleon.generation.pages import PagePool, page_bytes, pages_for
from kameleon.generation.request import Completion, Piece, Request, ScoredToken
from kameleon.generation.sampling import Chooser, choose, new_generator
from kameleon.generation.step import Batch
from kameleon.settings import Sampling

__all__ = [
    "Batch",
    "Chooser",
    "Completion",
    "Grammars",
    "PagePool",
    "Piece",
    "Request",
    "Sampling",
    "ScoredToken",
    "choose",
    "generate",
    "grammars_of",
    "new_generator",
    "page_bytes",
    "pages_for",
    "stream",
]
