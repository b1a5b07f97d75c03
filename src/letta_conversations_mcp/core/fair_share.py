"""Limits that callers share: calls, streams, bytes of requests, sessions, watched conversations. One rule for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from letta_conversations_mcp.core.errors import Overloaded

PART = 4
"""One caller may have a quarter of everything, unless something else is set."""


class FairShare:
    """Limits how much of something is in use at a time: `most` in all, `most_of_one` per caller. `what` is its name, a
    plural.

    Callers without a name ("") cannot be told apart, so only `most` applies to them.
    """

    def __init__(self, what: str, most: int, most_of_one: int = 0) -> None:
        self._what = what
        self._most = most
        self._most_of_one = most_of_one or max(most // PART, 1)
        self._taken: Counter[str] = Counter()

    def take(self, caller: str, amount: int = 1) -> None:
        """Raises Overloaded, with `of_caller` if it is this caller's limit."""
        if caller and self._taken[caller] + amount > self._most_of_one:
            raise Overloaded(f"one caller may have {self._most_of_one:,} {self._what} at a time", of_caller=True)
        if self._taken.total() + amount > self._most:
            raise Overloaded(f"this server has {self._most:,} {self._what} at a time, and they are taken")
        self._taken[caller] += amount

    def give_back(self, caller: str, amount: int = 1) -> None:
        self._taken[caller] -= amount
        if not self._taken[caller]:
            del self._taken[caller]

    @contextmanager
    def place(self, caller: str) -> Generator[None]:
        """Takes one for as long as the context lasts. Raises as `take` does."""
        self.take(caller)
        try:
            yield
        finally:
            self.give_back(caller)
