"""Which part of a tensor is in memory (Linux)."""

import ctypes
import mmap


def resident_bytes(x):
    """Of the pages that a dense `x` fills whole."""
    first = -(-x.data_ptr() // mmap.PAGESIZE)
    count = (x.data_ptr() + x.nbytes) // mmap.PAGESIZE - first
    states = (ctypes.c_ubyte * count)()
    libc = ctypes.CDLL(None, use_errno=True)
    at, size = ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t(count * mmap.PAGESIZE)
    assert libc.mincore(at, size, states) == 0, ctypes.get_errno()
    return sum(state & 1 for state in states) * mmap.PAGESIZE
