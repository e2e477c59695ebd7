"""GET /metrics in Prometheus' text format: the engine's counts, read at each scrape, and responses by status."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kameleon.http.service import Service
from kameleon.serving.state import EDGES_S, EngineState, Times

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """All figures, for Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Engine(Collector):
    """Reads the engine's state at every scrape; nothing is counted twice."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        state = self._service.engine.state()
        yield from _gauges(state)
        yield from self._counters(state)
        yield from self._histograms(state)

    def _counters(self, state: EngineState) -> Iterator[Metric]:
        for name, told in (
            ("requests", "Requests accepted"),
            ("prompt_tokens", "Tokens of prompts"),
            ("cached_tokens", "Tokens of prompts that were in the cache"),
            ("completion_tokens", "Tokens generated"),
        ):
            family = CounterMetricFamily(f"kameleon_{name}", told, labels=["adapter"])
            for adapter, counters in state.counters.items():
                family.add_metric([self._label(adapter)], getattr(counters, name))
            yield family
        finished = CounterMetricFamily("kameleon_finished", "Requests that ended", labels=["adapter", "finish"])
        for adapter, counters in state.counters.items():
            for finish, count in counters.finished.items():
                finished.add_metric([self._label(adapter), finish], count)
        yield finished

    def _histograms(self, state: EngineState) -> Iterator[Metric]:
        for name, told in (
            ("queue", "From submission until computing starts"),
            ("first_token", "From submission to the first token"),
            ("between_tokens", "Between two tokens of an answer"),
        ):
            family = HistogramMetricFamily(f"kameleon_{name}_seconds", told, labels=["adapter"])
            for adapter, counters in state.counters.items():
                times: Times = getattr(counters, f"{name}_s")
                family.add_metric([self._label(adapter)], _buckets(times), times.sum_s)
            yield family

    def _label(self, adapter: str | None) -> str:
        return self._service.model_of(adapter)


def _gauges(state: EngineState) -> Iterator[Metric]:
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
    yield CounterMetricFamily(
        "kameleon_preemptions", "Requests put off for want of room, or for another client's share", state.preemptions
    )


def _buckets(times: Times) -> list[tuple[str, float]]:
    edges = [*map(str, EDGES_S), "+Inf"]
    return list(zip(edges, accumulate(times.counts), strict=True))


def make_registry(service: Service) -> tuple[CollectorRegistry, Counter]:
    """A registry of this server alone, and its counter of responses by route and status."""
    registry = CollectorRegistry()
    registry.register(_Engine(service))
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
