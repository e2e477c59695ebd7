"""Text from prompts: KV cache, sampling, and the one loop that generates for a mixed batch."""

from kameleon.generation.kv_cache import KVCache
from kameleon.generation.loop import Completion, Piece, Request, generate, stream
from kameleon.generation.sampling import Sampling, choose, new_generator

__all__ = ["Completion", "KVCache", "Piece", "Request", "Sampling", "choose", "generate", "new_generator", "stream"]
