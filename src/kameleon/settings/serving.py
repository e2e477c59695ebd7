"""Settings of a server: its limits, and its HTTP side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kameleon.arguments import check_types
from kameleon.settings.generation import COMPILE_CPU_S
from kameleon.settings.values import MOST_BYTES, MOST_COUNT, MOST_S, Span, check

_ORIGIN = r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+"  # "null" is the origin of a page that is a file


@dataclass(frozen=True)
class Limits:
    """Memory that a server may use, and requests that it refuses."""

    kv_cache_bytes: int | None = None
    """Memory for the keys and values of running requests and of recent prompts; by default an eighth of what is free.
    """
    adapter_bytes: int | None = None
    """Memory for resident adapters; the least recently used are evicted first. By default an eighth of what is free."""
    max_batch: int = 64
    """Requests that are computed together: more share each reading of the weights, and each waits a little longer."""
    max_queue: int = 256
    """Requests that may wait; one more is told to come back later, since it would wait longer than most clients do. If
    a key (or user, without keys) has fewer waiting than another one, the last request of that other is told so."""
    max_forms: int = 32
    """Different schemas and expressions that may wait to be compiled, half of them of one key: they are compiled one
    after the other, and each may take --max-compile-s. Requests of the same form wait as one."""
    max_compile_s: float = COMPILE_CPU_S
    """CPU time in which a schema or an expression must compile, or it is refused; one of 500 properties takes a tenth
    of a second."""
    max_request_s: float = 600.0
    """Seconds a request may take, waiting included, before it ends with what it has; 0 sets no limit."""
    default_max_tokens: int = 512
    """Tokens of an answer to a chat request that sets no max_tokens: several paragraphs, and a small base that finds no
    end stops within seconds. A request may ask for more."""
    share_prefixes: bool = False
    """Let keys share what the cache holds of recent prompts. By default each key finds its own prompts alone: the time
    of an answer, and its cached_tokens, would tell one key what another has sent."""
    prefill_chunk_tokens: int = 256
    """Prompt tokens computed in one step beside running answers: what a long prompt puts between two tokens."""

    def __post_init__(self) -> None:
        check_types(self)
        check(
            self,
            Span("kv_cache_bytes", 1, MOST_BYTES, none="derived"),
            Span("adapter_bytes", 1, MOST_BYTES, none="derived"),
            Span("max_batch", 1, 4096),
            Span("max_queue", 1, 10**6),
            Span("max_forms", 1, 10**6),
            Span("max_compile_s", 0.001, MOST_S),
            Span("max_request_s", 0, MOST_S, zero="no limit"),
            Span("default_max_tokens", 1, MOST_COUNT),
            Span("prefill_chunk_tokens", 16, MOST_COUNT),
        )


@dataclass(frozen=True)
class HttpSettings:
    """Where a server listens, who may come in, and how much one request may bring."""

    host: str = "127.0.0.1"
    """Where to listen: this machine alone. Another address lets others in, and needs --api-key-file."""
    port: int = 8000
    """The port, the one that OpenAI-compatible servers are looked for on; 0 takes a free one and prints it."""
    api_key_file: Path | None = None
    """Demand a key of every request: a file with a line for each, KEY or KEY MODELS role=ROLE, that only its owner can
    read (chmod 600)."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may call the server from a browser (https://example.org, or '*' for all pages)."""
    max_request_bytes: int = 4_000_000
    """The largest body of a request: more than any base here reads at once."""
    max_upload_bytes: int = 500_000_000
    """The largest upload of an adapter: far more than one of rank 16 on a base of 8 billion weights has."""
    max_connections: int = 1024
    """Connections that may be open. One more closes the one that waits longest for a request, or is told to come back
    later. All that wait and run take fewer, and each holds a file descriptor."""
    max_address_connections: int = 512
    """The same for the connections of one address: one client leaves half of all to others. More than wait and run."""
    max_head_bytes: int = 16_384
    """The largest head of a request, its path and headers: browsers and clients send less than half."""
    keep_alive_s: float = 60.0
    """Seconds that a connection may stay open between two requests: clients keep theirs for less."""
    slow_client_s: float = 30.0
    """A client that sends its request, or reads its answer, is dropped if it moves fewer than --slow-client-bytes in
    this many seconds and is not done: a busy machine or a bad line may pause for some seconds."""
    slow_client_bytes: int = 10_000
    """The fewest bytes in --slow-client-s. The default is a tenth of what the slowest mobile networks carry."""
    drain_s: float = 30.0
    """Seconds that running answers may go on for after SIGTERM or Ctrl-C, before they are cut."""

    def __post_init__(self) -> None:
        check_types(self)
        check(
            self,
            Span("port", 0, 65535, zero="a free one"),
            (
                "cors_origins",
                "origins as browsers send them (https://example.org, with no path), or '*' for all pages",
                all(re.fullmatch(_ORIGIN, origin) for origin in self.cors_origins),
            ),
            Span("max_request_bytes", 1000, MOST_BYTES),
            Span("max_upload_bytes", 1000, MOST_BYTES),
            Span("max_connections", 1, 10**6),
            Span("max_address_connections", 1, 10**6),
            Span("max_head_bytes", 1000, 10**6),
            Span("keep_alive_s", 0, MOST_S, open=True),
            Span("slow_client_s", 0, MOST_S, open=True),
            Span("slow_client_bytes", 1, MOST_COUNT),
            Span("drain_s", 0, MOST_S),
        )
