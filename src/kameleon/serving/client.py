"""Who asks for something: the value that goes from a request to the queue and to the prefix cache."""

from __future__ import annotations

from typing import NamedTuple


class Client(NamedTuple):
    """A key that the server gave out ("" where it gave none), and the user that a request names, which may be any."""

    key: str = ""
    user: str = ""
