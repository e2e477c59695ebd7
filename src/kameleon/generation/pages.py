"""Memory for keys and values: pages shared by sequences that begin alike, kept while there is room.

The prefix cache is a tree: a full page is known by the page before it and its own tokens, and the first page by the key
of its adapter, so no page is ever found under another adapter. Tokens are
compared, not hashes of them: there are no collisions.
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
    """What one pass through the decoder needs of the pool: all layers' pages, and the tables of its segments."""

    keys: Tensor
    values: Tensor
    tables: Tensor

    def layer(self, index: int) -> LayerPages:
        """One layer's pages, with the tables of all segments."""
        return LayerPages(self.keys[index], self.values[index], self.tables)


class PagePool:
    """A fixed number of pages. Whoever takes one holds it until `release`; full ones can be found again afterwards."""

    def __init__(self, config: DecoderConfig, pages: int, dtype: torch.dtype) -> None:
        self.pages = pages
        self._keys, self._values = new_pages(pages, config.num_layers, config.num_kv_heads, config.head_dim, dtype)
        self._free = list(range(pages - 1, -1, -1))
        self._holders = [0] * pages
        self._idle: OrderedDict[int, None] = OrderedDict()  # found again if asked for, taken anew from the oldest on
        self._known: dict[tuple[Hashable, tuple[int, ...]], int] = {}
        self._place: dict[int, tuple[Hashable, tuple[int, ...]]] = {}
        self._serial: dict[int, int] = {}  # a known page's own number in the tree, never used again
        self._serials = 0

    @property
    def available(self) -> int:
        """Pages that nobody holds."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Pages that some sequence refers to."""
        return self.pages - self.available

    @property
    def known(self) -> int:
        """Full pages that a later prompt could find."""
        return len(self._known)

    def take(self) -> int | None:
        """A page to write to, or None if all are held."""
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        else:
            return None
        self._holders[page] = 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """Give back a sequence's pages; of those that can be found again, the last ones are forgotten first."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._place:
                self._idle[page] = None
            else:
                self._free.append(page)

    def find(self, adapter: Hashable, tokens: Sequence[int]) -> tuple[list[int], Hashable]:
        """The pages, held now, whose tokens were computed under the same adapter and begin `tokens`; and the branch of
        the tree that they lead to. The last token is left out: somebody must compute it to know what follows."""
        found: list[int] = []
        branch: Hashable = ("root", adapter)
        for at in range(0, (len(tokens) - 1) // PAGE_TOKENS * PAGE_TOKENS, PAGE_TOKENS):
            page = self._known.get((branch, tuple(tokens[at : at + PAGE_TOKENS])))
            if page is None:
                break
            self._idle.pop(page, None)
            self._holders[page] += 1
            found.append(page)
            branch = self._serial[page]
        return found, branch

    def learn(self, branch: Hashable, tokens: Sequence[int], page: int) -> Hashable:
        """`page`, held, has all its `tokens` and follows `branch`: others may find it. Returns the branch after it."""
        key = branch, tuple(tokens)
        if key not in self._known:
            self._serials += 1
            self._known[key], self._place[page], self._serial[page] = page, key, self._serials
        return self._serial[self._known[key]]

    def tables(self, rows: Sequence[Sequence[int]]) -> PassPages:
        """For one pass: the pages of each of its segments."""
        widest = max(map(len, rows))
        flat = [list(row) + [0] * (widest - len(row)) for row in rows]
        return PassPages(self._keys, self._values, torch.tensor(flat, dtype=torch.int64))

    def _forget(self, page: int) -> None:
        del self._known[self._place.pop(page)], self._serial[page]


def page_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory of one page over all layers."""
    return 2 * config.num_layers * PAGE_TOKENS * config.num_kv_heads * config.head_dim * dtype.itemsize


def pages_for(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE_TOKENS)
