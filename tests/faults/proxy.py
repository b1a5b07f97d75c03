"""A TCP proxy on loopback between our server and a Letta server, which breaks connections as it is told.

Owns the listening socket, the plan of what is to be broken, and the record of what went over it. An exchange itself is
in `relay_http` and `relay_websocket`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from tests.faults.peer import Broken, Peer
from tests.faults.plan import At, Break, Fault, Plan, Refuse, Wait
from tests.faults.tasks import owned_by
from tests.rig.loopback import loopback_socket
from tests.rig.waiting import until

STOP_SECONDS = 5


class Ended(Broken):
    """The answer has to end here, in order, though it is not complete."""


@dataclass(eq=False)
class Exchange:
    """One request and what became of it."""

    what: str
    is_send: bool
    fault: Fault | None
    forwarded: bool = False
    notes: list[str] = field(default_factory=list[str])
    open: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {', '.join(self.notes)}"


Relay = Callable[["Proxy", Peer], Awaitable[None]]


class Proxy:
    """`serve` it, `arm` it with a plan, and `disarm` it when the fault is to be over."""

    def __init__(self, host: str, port: int, relay: Relay) -> None:
        self.host = host
        self.port = port
        self.exchanges: list[Exchange] = []
        self.peers: set[Peer] = set()
        """The connections of our server that are open."""
        self.struck = anyio.Event()
        """Set when the fault has hit."""
        self.came_back = anyio.Event()
        """Set when something was asked after that."""
        self.released = anyio.Event()
        """Set by the test: an exchange that waits goes on."""
        self._relay = relay
        self._plan: Plan | None = None
        self._further: int | None = 0
        self._listening: asyncio.Server | None = None
        self._own_port = 0
        self._scopes: set[anyio.CancelScope] = set()
        self._failures: list[Exception] = []

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Listen; gives host:port. Everything that is connected is reset at the end."""
        await self._listen(loopback_socket())
        try:
            yield f"127.0.0.1:{self._own_port}"
        finally:
            self._refuse()
            for scope in self._scopes:
                scope.cancel()
            with anyio.move_on_after(STOP_SECONDS, shield=True):
                await until(lambda: not self.peers)
        if self._failures:
            raise ExceptionGroup("the proxy failed", self._failures)

    async def _listen(self, bound: socket.socket) -> None:
        self._own_port = bound.getsockname()[1]
        with owned_by("the proxy"):
            self._listening = await asyncio.start_server(self._connected, sock=bound)

    def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self.reset_all()

    def reset_all(self) -> None:
        """End every connection of our server."""
        for peer in list(self.peers):
            peer.reset()

    def arm(self, plan: Plan) -> None:
        """Break the next message that is handed over as the plan says, and forget what was before."""
        self._plan = plan
        self._further = 0
        self.struck = anyio.Event()
        self.came_back = anyio.Event()
        self.released = anyio.Event()
        self.exchanges.clear()
        if isinstance(plan.fault, Refuse):
            self._refuse()
            self.struck.set()

    async def disarm(self) -> None:
        """Whatever comes from now on goes through."""
        self._plan = None
        self._further = 0
        if self._listening is None:
            await self._listen(loopback_socket(self._own_port))

    def begin(self, what: str, *, is_send: bool) -> Exchange:
        """A request has come: with the fault that it meets, if any."""
        exchange = Exchange(what, is_send, self._next_fault(is_send=is_send))
        self.exchanges.append(exchange)
        return exchange

    def _next_fault(self, *, is_send: bool) -> Fault | None:
        if not self.struck.is_set():
            if not is_send or self._plan is None:
                return None
            self._further = self._plan.further
            return self._plan.fault
        self.came_back.set()
        if self._plan is None or self._further == 0:
            return None
        if self._further is not None:
            self._further -= 1
        return self._plan.fault

    def strike(self, exchange: Exchange, note: str) -> None:
        """The fault hits an exchange now."""
        exchange.notes.append(note)
        self.struck.set()

    async def reached(self, exchange: Exchange, at: At, client: Peer) -> None:
        """An exchange has come to a moment, at which its fault may strike.

        Raises:
            Ended: the answer has to end here.
            Broken: the connection is over.
        """
        fault = exchange.fault
        if not isinstance(fault, Break | Wait) or fault.at != at:
            return
        self.strike(exchange, str(fault))
        if isinstance(fault, Wait):
            await self.released.wait()
            return
        match fault.how:
            case "stall":
                await anyio.sleep_forever()
            case "end":
                raise Ended(str(fault))
            case "reset" | "close":
                for peer in list(self.peers) if fault.everywhere else [client]:
                    if fault.how == "reset":
                        peer.reset()
                    else:
                        peer.close()
                raise Broken(str(fault))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, in a task that asyncio makes for it."""
        client = Peer(reader, writer)
        self.peers.add(client)
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self._relay(self, client)
            except Broken:
                pass
            except Exception as error:
                self._failures.append(error)
            finally:
                self._scopes.discard(scope)
                self.peers.discard(client)
                client.close()
