"""One client's HTTP exchanges through the proxy: parsed with h11, so that a fault can strike at any part of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

import anyio
import h11

from tests.faults.garbling import Feeder, added_event, spoiled
from tests.faults.peer import Broken, Peer
from tests.faults.plan import At, Break, Garble, Garbling, Reply
from tests.faults.proxy import Ended, Exchange, Proxy

SENDS = "/v1/conversations/*/messages"
END_OF_EVENT = b"\n\n"
HOP_BY_HOP = (b"connection", b"keep-alive")

Headers = Iterable[tuple[bytes, bytes]]


async def relay_http(proxy: Proxy, client: Peer) -> None:
    """Every request of a connection, until it ends."""
    inbound = h11.Connection(h11.SERVER)
    while isinstance(request := await next_event(inbound, client), h11.Request):
        body = b""
        while isinstance(part := await next_event(inbound, client), h11.Data):
            body += part.data
        path = request.target.decode().partition("?")[0]
        is_send = request.method == b"POST" and fnmatchcase(path, SENDS)
        exchange = proxy.begin(f"{request.method.decode()} {path}", is_send=is_send)
        try:
            async with until_gone(client, inbound, exchange):
                await HttpExchange(proxy, client, inbound, exchange).run(request, body)
        finally:
            exchange.open = False
        if inbound.our_state is not h11.DONE or inbound.their_state is not h11.DONE:
            return
        inbound.start_next_cycle()


async def next_event(connection: h11.Connection, peer: Peer) -> h11.Event | None:
    """The next event of a connection; None when it has ended, in order or not."""
    while True:
        try:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await peer.receive())
                continue
        except h11.RemoteProtocolError:
            return None
        return event if isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed) else None


@asynccontextmanager
async def until_gone(client: Peer, inbound: h11.Connection, exchange: Exchange) -> AsyncGenerator[None]:
    """The body is cancelled when the client leaves. Raises the Broken of the body as it is."""

    async def watch() -> None:
        while data := await client.receive():
            inbound.receive_data(data)
        exchange.notes.append("our server left")
        tasks.cancel_scope.cancel()

    failure: Broken | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            yield
        except Broken as broken:
            failure = broken
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class HttpExchange:
    """One request, its way to the server, and the answer's way back."""

    def __init__(self, proxy: Proxy, client: Peer, inbound: h11.Connection, exchange: Exchange) -> None:
        self._proxy = proxy
        self._client = client
        self._inbound = inbound
        self._exchange = exchange
        self._garbling: Garbling | None = exchange.fault.how if isinstance(exchange.fault, Garble) else None
        self._feeder = Feeder(client, self._garbling)

    async def run(self, request: h11.Request, body: bytes) -> None:
        fault = self._exchange.fault
        await self._reached(At("request"))
        if isinstance(fault, Reply) and not fault.taken:
            await self._answer(fault)
            return
        try:
            upstream = await Peer.connect(self._proxy.host, self._proxy.port)
        except OSError as error:
            raise Broken("the server cannot be reached") from error
        try:
            await self._forward(upstream, request, body)
        except Ended:
            await self._end()
        finally:
            upstream.close()

    async def _forward(self, upstream: Peer, request: h11.Request, body: bytes) -> None:
        outbound = h11.Connection(h11.CLIENT)
        host = f"{self._proxy.host}:{self._proxy.port}".encode()
        # Without compression, or the events could not be told.
        headers = [*without(request.headers, b"host", b"accept-encoding"), (b"host", host), (b"connection", b"close")]
        parts: list[h11.Event] = [
            h11.Request(method=request.method, target=request.target, headers=headers),
            h11.EndOfMessage(),
        ]
        if body:
            parts.insert(1, h11.Data(body))
        await upstream.send(b"".join(outbound.send(part) or b"" for part in parts))
        self._exchange.forwarded = True
        self._exchange.notes.append("forwarded")
        await self._reached(At("forwarded"))
        head = await next_event(outbound, upstream)
        if not isinstance(head, h11.Response):
            raise Broken("the server gave no answer")
        self._exchange.notes.append(f"{head.status_code}")
        await self._reached(At("answer"))
        if isinstance(self._exchange.fault, Reply):
            await self._answer(self._exchange.fault)
        else:
            await self._pass_on(head, outbound, upstream)

    async def _pass_on(self, head: h11.Response, outbound: h11.Connection, upstream: Peer) -> None:
        streamed = dict(head.headers).get(b"content-type", b"").startswith(b"text/event-stream")
        fault = self._exchange.fault
        if isinstance(fault, Break) and fault.at.stage == "event" and not streamed:
            # What has no events breaks after its head instead.
            self._exchange.fault = replace(fault, at=At("head"))
        elif self._garbling and streamed:
            self._proxy.strike(self._exchange, str(fault))
        headers = without(head.headers)
        await self._send(h11.Response(status_code=head.status_code, headers=headers, reason=head.reason))
        await self._reached(At("head"))
        pending, events = bytearray(), 0
        while isinstance(part := await next_event(outbound, upstream), h11.Data):
            if not streamed:
                await self._send(part)
                continue
            pending += part.data
            while (end := pending.find(END_OF_EVENT)) >= 0:
                end += len(END_OF_EVENT)
                events += 1
                await self._pass_event(bytes(pending[:end]), events)
                del pending[:end]
        if pending:
            await self._send(h11.Data(bytes(pending)))
        if not isinstance(part, h11.EndOfMessage):
            raise Broken("the server broke off")
        if streamed:
            self._exchange.notes.append(f"all {events} events")
        await self._send(h11.EndOfMessage())

    async def _pass_event(self, event: bytes, number: int) -> None:
        if self._garbling and number == 2 and (more := added_event(self._garbling)):
            await self._send(h11.Data(more))
        twice = self._garbling == "twice" and b"[DONE]" not in event
        for _ in range(2 if twice else 1):
            await self._send(h11.Data(spoiled(event, self._garbling)))
        await self._reached(At("event", number))

    async def _answer(self, reply: Reply) -> None:
        self._proxy.strike(self._exchange, str(reply))
        body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        kind = "text/html" if isinstance(reply.body, str) else "application/json"
        headers = {"content-type": kind, "content-length": str(len(body)), **reply.headers}
        await self._send(h11.Response(status_code=reply.status, headers=list(headers.items())))
        await self._send(h11.Data(body))
        await self._send(h11.EndOfMessage())

    async def _end(self) -> None:
        """End an answer that is not complete as if it were; one of an announced length can only be cut off."""
        try:
            await self._send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            self._client.close()
            raise Broken("cut off") from error

    async def _reached(self, at: At) -> None:
        await self._proxy.reached(self._exchange, at, self._client)

    async def _send(self, event: h11.Event) -> None:
        await self._feeder.send(self._inbound.send(event))


def without(headers: Headers, *names: bytes) -> list[tuple[bytes, bytes]]:
    left_out = (*HOP_BY_HOP, *names)
    return [(name, value) for name, value in headers if name.lower() not in left_out]
