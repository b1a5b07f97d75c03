"""Turns in the log and in traces. Counting is added by `metrics`, over HTTP only."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter, time_ns

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from letta_conversations_mcp.observability.context import about, current_subject, of_turn
from letta_conversations_mcp.turns.instrumentation import Meter
from letta_conversations_mcp.turns.turn import TrackedTurn

logger = logging.getLogger(__name__)

_tracer = trace.get_tracer("letta-conversations-mcp")


class LoggingMeter(Meter):
    """Adds the ids of a turn to every log line about it, logs its end, and gives it a span, as a child of the call that
    began it. Spans cost next to nothing if they are not exported."""

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        began_at = time_ns()
        started = perf_counter()
        with about(of_turn(turn)):
            try:
                yield
            finally:
                facts = {"status": turn.ending, "seconds": round(perf_counter() - started, 3)}
                # Created at the end: only then is it known whether another process, or an earlier call, has the span.
                if not turn.joined:
                    _record_span(turn, began_at)
                logger.info("the turn ended: %s", turn.ending, extra=facts)


def _record_span(turn: TrackedTurn, began_at: int) -> None:
    facts = {
        "gen_ai.conversation.id": turn.ref.conversation_id,
        "gen_ai.agent.id": turn.ref.agent_id,
        "letta.run.id": turn.run_id,
        "letta.turn.status": turn.ending,
        "enduser.id": current_subject().caller,
    }
    attributes = {name: value for name, value in facts.items() if value}
    span = _tracer.start_span("turn", start_time=began_at, attributes=attributes)
    if turn.ending in ("failed", "refused", "unknown"):
        span.set_status(StatusCode.ERROR)
    span.end()
