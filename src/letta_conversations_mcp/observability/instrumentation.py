"""Passes what happens in this process on to the log, to spans and, if there are any, to metrics."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from time import perf_counter

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from letta_conversations_mcp.observability.context import about, current_subject, of_turn
from letta_conversations_mcp.turns.instrumentation import Meter, Outcome
from letta_conversations_mcp.turns.turn import TrackedTurn

logger = logging.getLogger(__name__)

_tracer = trace.get_tracer("letta-conversations-mcp")


class Instrumentation(Meter):
    """Calls several meters in order. The first one binds the context of a turn, which the others use."""

    def __init__(self) -> None:
        self._meters: list[Meter] = [TurnLog(), TurnSpans()]

    def add(self, meter: Meter) -> None:
        """Call this meter too from now on."""
        self._meters.append(meter)

    def call(self, tool: str, outcome: Outcome, seconds: float) -> None:
        for each in self._meters:
            each.call(tool, outcome, seconds)

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        with ExitStack() as stack:
            for each in self._meters:
                stack.enter_context(each.turn(turn))
            yield

    def stream_lost(self) -> None:
        for each in self._meters:
            each.stream_lost()

    def stream_resumed(self) -> None:
        for each in self._meters:
            each.stream_resumed()

    def message_resent(self) -> None:
        for each in self._meters:
            each.message_resent()

    def letta_answered(self, status: int) -> None:
        for each in self._meters:
            each.letta_answered(status)


class TurnLog(Meter):
    """Adds the ids of a turn to every log line about it, and logs its end."""

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        started = perf_counter()
        with about(of_turn(turn)):
            try:
                yield
            finally:
                facts = {"status": turn.ending, "seconds": round(perf_counter() - started, 3)}
                logger.info("the turn ended: %s", turn.ending, extra=facts)


class TurnSpans(Meter):
    """A span for each turn, as a child of the call that began it. Costs next to nothing if nothing is exported."""

    @contextmanager
    def turn(self, turn: TrackedTurn) -> Generator[None]:
        with _tracer.start_as_current_span("turn", record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            finally:
                facts = {
                    "gen_ai.conversation.id": turn.ref.conversation_id,
                    "gen_ai.agent.id": turn.ref.agent_id,
                    "letta.run.id": turn.run_id,
                    "letta.turn.status": turn.ending,
                    "enduser.id": current_subject().caller,
                }
                span.set_attributes({name: value for name, value in facts.items() if value})
                if turn.ending in ("failed", "refused", "unknown"):
                    span.set_status(StatusCode.ERROR)
