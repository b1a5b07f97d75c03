"""Counters and histograms for Prometheus.

Labels are tools, outcomes and statuses: few values, known in advance. Ids, names of agents and texts are never labels,
so the number of series does not grow with agents and callers. Gauges are computed when they are scraped, so they cannot
drift.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from letta_conversations_mcp import __version__
from letta_conversations_mcp.observability.instrumentation import LoggingMeter
from letta_conversations_mcp.turns.instrumentation import Outcome
from letta_conversations_mcp.turns.turn import TrackedTurn

if TYPE_CHECKING:
    from letta_conversations_mcp.notifications.redis_bus import RedisSubscriptionBus

CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45, 60, 120, 300, 600)
"""Buckets from a cached list to the longest waits that clients request."""

TURN_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)

PREFIX = "letta_mcp_"


class PrometheusMeter(LoggingMeter):
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self._followed: set[TrackedTurn] = set()
        self._calls = self._counter("tool_calls", "Calls of tools, by how they ended.", "tool", "outcome")
        self._call_seconds = Histogram(
            f"{PREFIX}tool_call_seconds",
            "How long calls of tools took, waiting for replies included.",
            ("tool",),
            buckets=CALL_SECONDS,
            registry=self.registry,
        )
        self._turns = self._counter("turns", "Turns of agents that this server followed to their end.", "status")
        self._turn_seconds = Histogram(
            f"{PREFIX}turn_seconds",
            "From a message's place in the order of its conversation to the end of its turn.",
            buckets=TURN_SECONDS,
            registry=self.registry,
        )
        self._letta = self._counter("letta_requests", "Requests to Letta, by HTTP status; none: no answer.", "status")
        self._lost = self._counter("streams_lost", "Streams of turns that broke before the turn ended.")
        self._resumed = self._counter("streams_resumed", "Streams that were resumed where they broke.")
        self._resent = self._counter("messages_resent", "Messages that never arrived and were handed over again.")
        self._gauge("turns_in_flight", "Turns that run now.").set_function(self._count_begun)
        self._gauge("messages_queued", "Messages that wait for a turn before them.").set_function(self._count_queued)
        self._gauge("tasks", "Tasks of the event loop.").set_function(lambda: len(asyncio.all_tasks()))
        info = Gauge(f"{PREFIX}info", "What runs here.", ("version",), registry=self.registry)
        info.labels(__version__).set(1)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"{PREFIX}{name}", meaning, registry=self.registry)

    def _count_begun(self) -> float:
        return sum(each.is_handed_over and not each.joined for each in self._followed)

    def _count_queued(self) -> float:
        return sum(not each.is_handed_over for each in self._followed)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def call(self, tool: str, outcome: Outcome, seconds: float) -> None:
        self._calls.labels(tool, outcome).inc()
        self._call_seconds.labels(tool).observe(seconds)

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        self._followed.add(turn)
        started = perf_counter()
        try:
            with super().turn(turn):
                yield
        finally:
            self._followed.discard(turn)
            # Another process, or an earlier call, has counted a turn that this one only joined.
            if not turn.joined:
                self._turn_seconds.observe(perf_counter() - started)
                self._turns.labels(turn.ending).inc()

    def watch_bus(self, bus: RedisSubscriptionBus) -> None:
        """Add the metrics of the bus that replicas share."""
        self._gauge("bus_connected", "1 while events of other replicas arrive here.").set_function(
            lambda: bus.is_connected
        )
        self.registry.register(_BusEvents(bus))

    def stream_lost(self) -> None:
        self._lost.inc()

    def stream_resumed(self) -> None:
        self._resumed.inc()

    def message_resent(self) -> None:
        self._resent.inc()

    def letta_answered(self, status: int) -> None:
        self._letta.labels(str(status) if 100 <= status < 600 else "none").inc()


class _BusEvents(Collector):
    """Exposes the counters that a bus keeps itself."""

    def __init__(self, bus: RedisSubscriptionBus) -> None:
        self._bus = bus

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            f"{PREFIX}bus_events", "Events to other replicas and from them, by what became of them.", labels=["outcome"]
        )
        for outcome, count in self._bus.counts.items():
            family.add_metric([outcome], count)
        return [family]
