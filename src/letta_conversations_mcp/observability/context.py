"""The subject of a log line or span: request, caller, tool, conversation and run.

A context variable that is set for a call and inherited by everything that the call starts, including background turns.
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
    """What a log line is about. Fields that do not apply are ""."""

    request_id: str = ""
    caller: str = ""
    tool: str = ""
    conversation_id: str = ""
    turn: TrackedTurn | None = None

    def fields(self) -> Mapping[str, str]:
        """The ids by name, without empty ones. Read them late: a turn's run id is not known at first."""
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
    """Attaches `subject` to everything that is logged inside."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


def of_turn(turn: TrackedTurn) -> Subject:
    """The subject of the current call, with the turn that it works on."""
    return replace(_subject.get(), turn=turn)


def conversation_of(arguments: Mapping[str, object]) -> str:
    """The conversation id in a tool's arguments; "" if there is no valid one."""
    given = arguments.get("conversation_id")
    return given.strip() if isinstance(given, str) and CONVERSATION_ID.fullmatch(given.strip()) else ""
