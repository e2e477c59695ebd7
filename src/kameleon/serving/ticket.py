"""A request that the engine was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kameleon.generation import Chooser, Piece, Request
from kameleon.serving.client import Client
from kameleon.serving.hot_adapters import Version

OnPiece = Callable[[Piece], None]


@dataclass(eq=False)
class Ticket:
    """A submitted request. Its pieces, and its sequence in the batch, carry its `id`."""

    id: int
    request: Request
    client: Client
    on_piece: OnPiece
    version: Version
    submitted_s: float
    chooser: Chooser | None = None
    """None until its grammar is compiled."""
    started: bool = False
    """Whether it is in the batch."""
    last_token_s: float | None = None
