"""What a line in the log or a span belongs to: the request, its caller, the tool, the conversation and the run.

Bound in the context of a call, and so known to everything that the call starts, turns in the background too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from letta_conversations_mcp.core.model import CONVERSATION_ID
from letta_conversations_mcp.turns.turn import TrackedTurn


@dataclass(frozen=True)
class Subject:
    """What is being worked on. "" for what there is none of."""

    request_id: str = ""
    caller: str = ""
    tool: str = ""
    conversation_id: str = ""
    turn: TrackedTurn | None = None

    def fields(self) -> Mapping[str, str]:
        """The ids by name, without empty ones. A turn's run is known only after a while."""
        turn = self.turn
        every = {
            "request_id": self.request_id,
            "caller": self.caller,
            "tool": self.tool,
            "conversation_id": turn.ref.conversation_id if turn else self.conversation_id,
            "run_id": turn.run_id if turn else "",
        }
        return {name: value for name, value in every.items() if value}


_subject: ContextVar[Subject] = ContextVar("subject", default=Subject())  # noqa: B039  frozen, with nothing mutable in it


def current_subject() -> Subject:
    return _subject.get()


@contextmanager
def about(subject: Subject) -> Generator[None]:
    """What is logged in here is about this."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


def of_turn(turn: TrackedTurn) -> Subject:
    """The present call, and the turn that it works on."""
    return replace(_subject.get(), turn=turn)


def conversation_of(arguments: Mapping[str, object]) -> str:
    """The conversation that a tool's arguments name, when it is one; "" for anything else that stands there."""
    given = arguments.get("conversation_id")
    return given.strip() if isinstance(given, str) and CONVERSATION_ID.fullmatch(given.strip()) else ""
