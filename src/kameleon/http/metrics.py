"""GET /metrics in Prometheus' text format: the engine's counts, read at each scrape, and responses by status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kameleon.http.keys import key_of
from kameleon.http.service import Service, service_of
from kameleon.serving.state import EDGES_S, Counters, Times

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """All figures, for Prometheus. A key that is no admin's gets those of its own requests: others would tell it of
    other models and clients."""
    key, registry = key_of(request), request.app.state.registry
    if not key.is_admin:
        registry = CollectorRegistry()
        registry.register(_Requests(service_of(request), key.name))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Requests(Collector):
    """Figures of requests by adapter: of all, or of those of one key. They are the engine's counts at each scrape."""

    def __init__(self, service: Service, key: str | None = None) -> None:
        self._service, self._key = service, key

    def collect(self) -> Iterator[Metric]:
        counted = self._service.engine.counters(self._key)
        by_label = {self._service.model_of(adapter): counters for adapter, counters in counted.items()}
        yield from _counters(by_label)
        yield from _histograms(by_label)


def _counters(by_label: Mapping[str, Counters]) -> Iterator[Metric]:
    for name, told in (
        ("requests", "Requests accepted"),
        ("prompt_tokens", "Tokens of prompts"),
        ("cached_tokens", "Tokens of prompts that were in the cache"),
        ("completion_tokens", "Tokens generated"),
    ):
        family = CounterMetricFamily(f"kameleon_{name}", told, labels=["adapter"])
        for label, counters in by_label.items():
            family.add_metric([label], getattr(counters, name))
        yield family
    finished = CounterMetricFamily("kameleon_finished", "Requests that ended", labels=["adapter", "finish"])
    for label, counters in by_label.items():
        for finish, count in counters.finished.items():
            finished.add_metric([label, finish], count)
    yield finished


def _histograms(by_label: Mapping[str, Counters]) -> Iterator[Metric]:
    for name, told in (
        ("queue", "From submission until computing starts"),
        ("first_token", "From submission to the first token"),
        ("between_tokens", "Between two tokens of an answer"),
    ):
        family = HistogramMetricFamily(f"kameleon_{name}_seconds", told, labels=["adapter"])
        for label, counters in by_label.items():
            times: Times = getattr(counters, f"{name}_s")
            family.add_metric([label], _buckets(times), times.sum_s)
        yield family


class _Gauges(Collector):
    """What the engine holds at each scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        state = self._service.engine.state()
        resident = sum(1 for adapter in state.adapters if not adapter.loading)
        for name, told, value in (
            ("queued_requests", "Requests that wait", state.queued),
            ("running_requests", "Requests that are computed now", state.running),
            ("cache_tokens", "Tokens that the cache has room for", state.cache_tokens),
            ("cache_used_tokens", "Tokens in the cache that running requests hold", state.cache_used_tokens),
            ("resident_adapters", "Versions of adapters in memory", resident),
            ("adapter_bytes", "Memory of resident adapters", state.adapter_bytes),
            ("up", "Whether the engine takes requests", int(state.alive)),
        ):
            yield GaugeMetricFamily(f"kameleon_{name}", told, value=value)
        told = "Requests put off for want of room, or for another client's share"
        yield CounterMetricFamily("kameleon_preemptions", told, state.preemptions)


def _buckets(times: Times) -> list[tuple[str, float]]:
    edges = [*map(str, EDGES_S), "+Inf"]
    return list(zip(edges, accumulate(times.counts), strict=True))


def make_registry(service: Service) -> tuple[CollectorRegistry, Counter]:
    """A registry of this server alone, and its counter of responses by route and status."""
    registry = CollectorRegistry()
    registry.register(_Gauges(service))
    registry.register(_Requests(service))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    responses = Counter("kameleon_http_responses", "Responses", ["route", "status"], registry=registry)
    return registry, responses


class CountResponses:
    """ASGI middleware that counts responses by route and status; paths without a route count as one."""

    def __init__(self, app: ASGIApp, responses: Counter) -> None:
        self._app, self._responses = app, responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._responses.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)
