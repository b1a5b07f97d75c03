"""Turns that have ended without anybody being told, for a caller who gave up and sends the same message again.

A hint and no store: what is forgotten here is still at Letta, and wait_for_reply finds it there.
"""

from __future__ import annotations

from collections import OrderedDict

import anyio

from letta_conversations_mcp.core.model import ConversationRef, Outgoing
from letta_conversations_mcp.turns.handle import Flight

KEPT_SECONDS = 600.0
"""A client that tries again does so at once, and a model some calls later. What comes after that is meant anew."""

MOST_KEPT = 200

WORTH_KEEPING = ("completed", "empty", "unknown")
"""After any other ending the same message has to be sent again, or cannot be."""


class Unread:
    """The last turn of each conversation, as long as nobody was told of it."""

    def __init__(self) -> None:
        self._flights: OrderedDict[ConversationRef, tuple[Flight, float]] = OrderedDict()

    def keep(self, flight: Flight) -> None:
        """Keep a turn that has landed, if it is worth it."""
        self.forget(flight.ref)
        if flight.told or flight.ending not in WORTH_KEEPING:
            return
        now = anyio.current_time()
        self._flights[flight.ref] = flight, now + KEPT_SECONDS
        while len(self._flights) > MOST_KEPT or next(iter(self._flights.values()))[1] < now:
            self._flights.popitem(last=False)

    def find(self, ref: ConversationRef, message: Outgoing, caller: str) -> Flight | None:
        """The turn that has answered this very message of this caller."""
        flight, until = self._flights.get(ref, (None, 0.0))
        is_it = flight is not None and anyio.current_time() <= until and flight.is_of(message, caller)
        return flight if is_it else None

    def all(self) -> list[Flight]:
        """The turns that are kept."""
        now = anyio.current_time()
        return [flight for flight, until in self._flights.values() if now <= until]

    def forget(self, ref: ConversationRef) -> None:
        """Somebody was told of the conversation's last turn, or has begun another."""
        self._flights.pop(ref, None)
