"""Optional: each ended request as a span of OpenTelemetry's conventions for generative AI, sent to an OTLP/HTTP collector.

The packages come with the extra `turnout[otel]`; batches leave in a thread of theirs, and a collector that is down costs spans
and nothing else.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .record import Record

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


class Exporter:
    """A listener of the books. Raises ImportError at import where the extra is missing."""

    def __init__(self, url: str) -> None:
        self._resource = Resource.create({"service.name": "turnout-proxy"})
        self._scope = InstrumentationScope("controller.proxy")
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url))

    def add(self, record: Record) -> None:
        self._processor.on_end(self._span(record))

    def close(self) -> None:
        """Send what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _span(self, record: Record) -> ReadableSpan:
        trace = int(record.trace, 16)
        context = SpanContext(trace, int(record.span, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        parent = SpanContext(trace, int(record.parent, 16), is_remote=True) if record.parent else None
        operation = _OPERATIONS.get(record.path, record.path)
        start = int(record.at * 1e9)
        return ReadableSpan(
            name=f"{operation} {record.agent}",
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes(record, operation),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, record.code) if record.error else Status(StatusCode.UNSET),
            start_time=start,
            end_time=start + int(record.total_s * 1e9),
            instrumentation_scope=self._scope,
        )


def attributes(record: Record, operation: str) -> dict[str, Any]:
    """What is said of a request; what is not known is left out."""
    said = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": record.endpoint,
        "gen_ai.agent.name": record.agent,
        "gen_ai.request.model": record.model,
        "gen_ai.conversation.id": record.session,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "http.response.status_code": record.status,
        "server.address": record.replica,
        "error.type": record.code if record.error else "",
        "turnout.variant": record.variant,
        "turnout.version": record.version,
        "turnout.step": record.step,
        "turnout.client": record.client,
        "turnout.task": record.task,
        "turnout.tries": record.tries,
        "turnout.cost_usd": record.cost_usd,
        "turnout.bottleneck": record.bottleneck,
        "turnout.queue_s": record.queue_s,
        "turnout.prefill_s": record.prefill_s,
        "turnout.decode_s": record.decode_s,
        "gen_ai.input.messages": record.prompt,
        "gen_ai.output.messages": record.answer,
    }
    return {name: value for name, value in said.items() if value not in ("", None)}
