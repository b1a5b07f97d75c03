"""What the proxy may be told to do to a connection: the faults, where in an exchange they strike, and how often.

The same words serve HTTP and WebSocket. In an exchange over HTTP the request is a POST or GET, its head the headers of
the answer, and its events those of the stream. Over a WebSocket the request is the frame that hands a message or a
decision over, its head the frame that accepts it, and its events all frames of the turn after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["request", "forwarded", "answer", "head", "event"]
How = Literal["reset", "close", "end", "stall"]
Garbling = Literal["halves", "bytes", "not utf-8", "reply not utf-8", "not json", "unknown kind", "20 MB", "twice"]


@dataclass(frozen=True)
class At:
    """A moment in an exchange.

    `request`: read, not forwarded. `forwarded`: handed to the server, which is left at once. `answer`: the server has
    begun to answer, none of it is passed on. `head`: the head is passed on. `event`: so many events are passed on.
    """

    stage: Stage
    event: int = 0

    def __str__(self) -> str:
        words = {"request": "before the server has the request", "forwarded": "once the server has the request"}
        words |= {"answer": "instead of the answer", "head": "after the head of the answer"}
        return words.get(self.stage, f"after event {self.event}")


@dataclass(frozen=True)
class Break:
    """The connection ends: by a TCP reset, by closing it, by an orderly end of an answer that is not complete (`end`),
    or not at all, but nothing more is passed on (`stall`). `everywhere`: every connection of the server, not this one
    alone."""

    how: How
    at: At
    everywhere: bool = False

    def __str__(self) -> str:
        return f"{self.how} {'everywhere ' if self.everywhere else ''}{self.at}"


@dataclass(frozen=True)
class Reply:
    """The proxy answers by itself, as a gateway does. `taken`: the server had the request all the same."""

    name: str
    status: int
    body: str | Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    taken: bool = False

    def __str__(self) -> str:
        return f"{self.name}{', though taken' if self.taken else ''}"


@dataclass(frozen=True)
class Garble:
    """The answer is complete, but delivered in pieces or with events that are not as they should be."""

    how: Garbling

    def __str__(self) -> str:
        words = {"halves": "every part cut in two", "bytes": "byte by byte", "twice": "every event twice"}
        words |= {"reply not utf-8": "invalid UTF-8 in the reply"}
        return words.get(self.how, f"an event more: {self.how}")


@dataclass(frozen=True)
class Refuse:
    """Nobody listens any more, and what was connected is reset."""

    def __str__(self) -> str:
        return "refuse the connection"


@dataclass(frozen=True)
class Wait:
    """The exchange waits at a moment until the proxy releases it: what happens then is a client's doing."""

    at: At

    def __str__(self) -> str:
        return str(self.at)


Fault = Break | Reply | Garble | Refuse | Wait


@dataclass(frozen=True)
class Plan:
    """A fault of the next message that is handed over, and of `further` requests after it: of all of them, until the
    proxy is told, when None."""

    fault: Fault
    further: int | None = 0
