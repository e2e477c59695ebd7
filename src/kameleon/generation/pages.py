"""Memory for keys and values: pages shared by sequences that begin alike, kept while there is room.

The prefix cache is a tree: a full page is found by the page before it and its own tokens, and the first page by a key
that says whose prompt it is, so no page is ever found under another key. Tokens are compared, not hashes of them: there
are no collisions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.model import DecoderConfig
from kameleon.ops import PAGE_TOKENS, LayerPages, new_pages


@dataclass(frozen=True)
class PassPages:
    """The pool as one pass through the decoder uses it: all layers' pages, and the tables of its segments."""

    keys: Tensor
    values: Tensor
    tables: Tensor

    def layer(self, index: int) -> LayerPages:
        """One layer's pages, with the tables of all segments."""
        return LayerPages(self.keys[index], self.values[index], self.tables)


class PagePool:
    """A fixed number of pages. A page that is taken is referenced until `release`; a published one can be found again
    afterwards, until it is evicted."""

    def __init__(self, config: DecoderConfig, pages: int, dtype: torch.dtype) -> None:
        self.pages = pages
        self._keys, self._values = new_pages(pages, config.num_layers, config.num_kv_heads, config.head_dim, dtype)
        self._free = list(range(pages - 1, -1, -1))
        self._references = [0] * pages
        self._cached: OrderedDict[int, None] = OrderedDict()  # published, unreferenced; least recently used first
        self._published: dict[tuple[Hashable, tuple[int, ...]], int] = {}
        self._place: dict[int, tuple[Hashable, tuple[int, ...]]] = {}
        self._node: dict[int, int] = {}  # a published page's node in the tree; its number is never used again
        self._nodes = 0

    @property
    def available(self) -> int:
        """Pages that can be taken: free ones, and cached ones without a reference."""
        return len(self._free) + len(self._cached)

    @property
    def held(self) -> int:
        """Pages that some sequence refers to."""
        return self.pages - self.available

    @property
    def published(self) -> int:
        """Full pages that a later prompt can find."""
        return len(self._published)

    def take(self) -> int | None:
        """A page to write to, or None if all are referenced; evicts the least recently used cached page if need be."""
        if self._free:
            page = self._free.pop()
        elif self._cached:
            page, _ = self._cached.popitem(last=False)
            self._evict(page)
        else:
            return None
        self._references[page] = 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """Drop a sequence's references; of its published pages, the last ones are evicted first."""
        for page in reversed(pages):
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._place:
                self._cached[page] = None
            else:
                self._free.append(page)

    def find(self, key: Hashable, tokens: Sequence[int]) -> tuple[list[int], Hashable]:
        """The longest cached prefix of `tokens` under that key: its pages, now referenced, and the tree's node
        after them. It never includes the last token, which must be computed to know the next one."""
        found: list[int] = []
        branch: Hashable = ("root", key)
        for at in range(0, (len(tokens) - 1) // PAGE_TOKENS * PAGE_TOKENS, PAGE_TOKENS):
            page = self._published.get((branch, tuple(tokens[at : at + PAGE_TOKENS])))
            if page is None:
                break
            self._cached.pop(page, None)
            self._references[page] += 1
            found.append(page)
            branch = self._node[page]
        return found, branch

    def publish(self, branch: Hashable, tokens: Sequence[int], page: int) -> Hashable:
        """Let later prompts find a full `page` of `tokens` behind the node `branch`. Returns the node after it."""
        key = branch, tuple(tokens)
        if key not in self._published:
            self._nodes += 1
            self._published[key], self._place[page], self._node[page] = page, key, self._nodes
        return self._node[self._published[key]]

    def tables(self, rows: Sequence[Sequence[int]]) -> PassPages:
        """The pool for one pass; `rows` has the pages of each of its segments."""
        widest = max(map(len, rows))
        flat = [list(row) + [0] * (widest - len(row)) for row in rows]
        return PassPages(self._keys, self._values, torch.tensor(flat, dtype=torch.int64))

    def _evict(self, page: int) -> None:
        del self._published[self._place.pop(page)], self._node[page]


def page_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory of one page over all layers."""
    return 2 * config.num_layers * PAGE_TOKENS * config.num_kv_heads * config.head_dim * dtype.itemsize


def pages_for(tokens: int) -> int:
    """The number of pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_TOKENS)
