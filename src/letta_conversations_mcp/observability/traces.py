"""OpenTelemetry traces: a span for each request, which the MCP SDK makes, and one for each turn within it.

OpenTelemetry's own variables configure the export (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, …). Only ids, names
and statuses are exported, and no texts of messages and errors, whatever the SDK writes into a span.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from letta_conversations_mcp import __version__

SERVICE = "letta-conversations-mcp"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""A valid name of a tool or prompt. The SDK names spans after what a client requests, which can be any text."""

_NAMES = ("gen_ai.tool.name", "gen_ai.prompt.name")


class WithoutTexts(SpanExporter):
    """Wraps another exporter and removes everything that may quote a message: error texts and stack traces."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([_without_texts(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    attributes = dict(span.attributes or {})
    name = span.name
    for key in _NAMES:
        if key in attributes and not _NAME.fullmatch(str(attributes[key])):
            name = name.removesuffix(str(attributes.pop(key))) + "unknown"
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def otlp_exporter() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


@contextmanager
def tracing(exporter: SpanExporter) -> Generator[None]:
    """Export the spans of this process while the context lasts, and flush the rest at its end."""
    resource = Resource.create({SERVICE_VERSION: __version__})
    # A name given here would override OTEL_SERVICE_NAME.
    if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(WithoutTexts(exporter)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
