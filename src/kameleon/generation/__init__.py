"""Text from prompts: KV cache, sampling, and the one loop that generates for a mixed batch."""

from kameleon.generation.kv_cache import KVCache
from kameleon.generation.loop import Completion, Piece, Request, generate, stream
from kameleon.generation.sampling import choose, new_generator
from kameleon.settings import Sampling

__all__ = ["Completion", "KVCache", "Piece", "Request", "Sampling", "choose", "generate", "new_generator", "stream"]
