"""One WebSocket connection through the proxy: its upgrade read with h11, its frames with websockets' own parser.

Frames are passed on uncompressed and whole, so that a fault can strike between any two of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import h11
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from tests.faults.garbling import Feeder, added_chunk
from tests.faults.peer import Broken, Peer
from tests.faults.plan import At, Break, Garble, Reply
from tests.faults.proxy import Ended, Exchange, Proxy
from tests.faults.relay_http import next_event, until_gone, without

GOING_AWAY = 1001

Json = dict[str, Any]


async def relay_websocket(proxy: Proxy, client: Peer) -> None:
    """One connection, from its upgrade to its end."""
    inbound = h11.Connection(h11.SERVER)
    request = await next_event(inbound, client)
    if not isinstance(request, h11.Request):
        return
    exchange = proxy.begin("connect", is_send=False)
    upstream: Peer | None = None
    try:
        if isinstance(exchange.fault, Break):
            # A connection that is only being made breaks at its first step, which has no orderly end.
            how = "close" if exchange.fault.how == "end" else exchange.fault.how
            exchange.fault = replace(exchange.fault, how=how, at=At("request"))
            async with until_gone(client, inbound, exchange):
                await proxy.reached(exchange, At("request"), client)
        upstream = await Peer.connect(proxy.host, proxy.port)
        outbound = h11.Connection(h11.CLIENT)
        host = f"{proxy.host}:{proxy.port}".encode()
        headers = [*without(request.headers, b"host", b"connection", b"sec-websocket-extensions")]
        headers += [(b"host", host), (b"connection", b"Upgrade")]
        await upstream.send(outbound.send(h11.Request(method=b"GET", target=request.target, headers=headers)) or b"")
        await upstream.send(outbound.send(h11.EndOfMessage()) or b"")
        head = await next_event(outbound, upstream)
        if isinstance(head, h11.Response):
            exchange.notes.append(f"{head.status_code}")
            refusal = h11.Response(status_code=head.status_code, headers=[(b"content-length", b"0")])
            await client.send((inbound.send(refusal) or b"") + (inbound.send(h11.EndOfMessage()) or b""))
            return
        if not isinstance(head, h11.InformationalResponse):
            raise Broken("the server did not answer")
        await client.send(inbound.send(h11.InformationalResponse(status_code=101, headers=head.headers)) or b"")
        exchange.notes.append("connected")
        await Frames(proxy, client, upstream, exchange).relay(outbound.trailing_data[0])
    except Ended:
        await client.send(Frame(Opcode.CLOSE, Close(GOING_AWAY, "").serialize()).serialize(mask=False))
    except OSError as error:
        raise Broken("the server cannot be reached") from error
    finally:
        exchange.open = False
        if upstream is not None:
            upstream.close()


class Frames:
    """The frames of one connection, in both directions."""

    def __init__(self, proxy: Proxy, client: Peer, upstream: Peer, connection: Exchange) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._connection = connection
        self._turn: Exchange | None = None
        self._request_id = ""
        self._events = 0
        self._feeder = Feeder(client, None)
        self._stalled = False

    async def relay(self, first: bytes) -> None:
        """Until either side ends the connection. `first`: what the server sent with its upgrade."""
        failure: Broken | None = None
        async with anyio.create_task_group() as tasks:

            async def from_client() -> None:
                nonlocal failure
                try:
                    async for frame in frames(self._client, masked=True):
                        await self._take(frame)
                    self._connection.notes.append("our server left")
                except Broken as broken:
                    failure = broken
                tasks.cancel_scope.cancel()

            tasks.start_soon(from_client)
            try:
                async for frame in frames(self._upstream, masked=False, first=first):
                    await self._give(frame)
                self._connection.notes.append("the server left")
            except Broken as broken:
                failure = broken
            tasks.cancel_scope.cancel()
        if self._turn is not None:
            self._turn.open = False
        if failure is not None:
            raise failure

    async def _take(self, frame: Frame) -> None:
        """A frame of our server's."""
        command = content(frame)
        if command.get("type") != "input":
            await self._forward(frame)
            return
        turn = self._turn = self._proxy.begin("input", is_send=True)
        self._request_id, self._events = command["request_id"], 0
        fault = turn.fault
        self._feeder = Feeder(self._client, fault.how if isinstance(fault, Garble) else None)
        await self._reached(At("request"))
        if isinstance(fault, Reply) and not isinstance(fault.body, str):
            self._proxy.strike(turn, str(fault))
            refusal = {**fault.body, "request_id": self._request_id, "runtime": command["runtime"]}
            await self._client.send(text_frame(refusal))
            turn.open = False
            return
        if self._stalled:
            return
        await self._forward(frame)
        turn.forwarded = True
        turn.notes.append("forwarded")
        await self._reached(At("forwarded"))

    async def _forward(self, frame: Frame) -> None:
        if not self._stalled:
            await self._upstream.send(frame.serialize(mask=True))

    async def _give(self, frame: Frame) -> None:
        """A frame of the App Server's."""
        turn, data = self._turn, content(frame)
        if turn is None or not data:
            await self._pass(frame.serialize(mask=False))
        elif data.get("request_id") == self._request_id:
            turn.notes.append(f"accepted: {data.get('accepted')}")
            await self._reached(At("answer"))
            await self._pass(frame.serialize(mask=False))
            await self._reached(At("head"))
        elif "request_id" in data:
            await self._pass(frame.serialize(mask=False))
        else:
            await self._pass_event(frame, data, turn)

    async def _pass_event(self, frame: Frame, data: Json, turn: Exchange) -> None:
        self._events += 1
        garbling = turn.fault.how if isinstance(turn.fault, Garble) else None
        if garbling and self._events == 1:
            self._proxy.strike(turn, str(turn.fault))
        if garbling and self._events == 4 and (chunk := added_chunk(garbling)) is not None:
            delta = {"type": "stream_delta", "delta": chunk, "runtime": data.get("runtime")}
            added = Frame(Opcode.TEXT, chunk) if isinstance(chunk, bytes) else None
            await self._pass(added.serialize(mask=False) if added else text_frame(delta))
        for _ in range(2 if garbling == "twice" else 1):
            await self._pass(frame.serialize(mask=False))
        await self._reached(At("event", self._events))
        if data.get("type") == "turn_finished":
            turn.notes.append(f"all {self._events} frames")
            turn.open = False
            self._turn = None
            self._feeder = Feeder(self._client, None)

    async def _pass(self, data: bytes) -> None:
        if not self._stalled:
            await self._feeder.send(data)

    async def _reached(self, at: At) -> None:
        assert self._turn is not None
        fault = self._turn.fault
        if isinstance(fault, Break) and fault.how == "stall" and fault.at == at:
            # Both directions: and the client's leaving is still to be seen.
            self._proxy.strike(self._turn, str(fault))
            self._stalled = True
        elif not self._stalled:
            await self._proxy.reached(self._turn, at, self._client)


async def frames(peer: Peer, *, masked: bool, first: bytes = b"") -> AsyncIterator[Frame]:
    """The frames that come from one side, until it ends."""
    reader = StreamReader()
    reader.feed_data(first)
    while True:
        parser = Frame.parse(reader.read_exact, mask=masked)
        while True:
            try:
                next(parser)
            except StopIteration as done:
                yield done.value
                break
            data = await peer.receive()
            if not data:
                return
            reader.feed_data(data)


def content(frame: Frame) -> Json:
    """The JSON object in a frame; nothing for frames without one."""
    if frame.opcode is not Opcode.TEXT:
        return {}
    data: Json | list[Any] = json.loads(bytes(frame.data))
    return data if isinstance(data, dict) else {}


def text_frame(data: object) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(data).encode()).serialize(mask=False)
