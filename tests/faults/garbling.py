"""What is done to an answer that is complete: delivered in pieces, or with events that are not as they should be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import anyio

from tests.faults.peer import Peer
from tests.faults.plan import Garbling

HUGE_CHARS = 20_000_000
UNKNOWN_KIND = "quantum_message"
PAUSE_SECONDS = 0.005  # for a part to travel alone


class Feeder:
    """Sends to a client: as it is, or in pieces that travel alone."""

    def __init__(self, client: Peer, garbling: Garbling | None) -> None:
        self._client = client
        self._garbling = garbling

    async def send(self, data: bytes | None) -> None:
        if not data:
            return
        match self._garbling:
            case "halves":
                middle = len(data) // 2
                await self._client.send(data[:middle])
                await anyio.sleep(PAUSE_SECONDS)
                await self._client.send(data[middle:])
            case "bytes":
                for index in range(len(data)):
                    await self._client.send(data[index : index + 1])
            case _:
                await self._client.send(data)


def added_chunk(garbling: Garbling) -> Mapping[str, object] | bytes | None:
    """What a stream is given in addition: a chunk, or bytes that are none."""
    match garbling:
        case "unknown kind":
            return {"message_type": UNKNOWN_KIND, "id": "message-quantum", "content": "not to be understood"}
        case "20 MB":
            message_id = "message-00000000-0000-4000-8000-000000000000"
            reasoning = {"id": message_id, "otid": message_id, "reasoning": "x" * HUGE_CHARS}
            return {"message_type": "reasoning_message", **reasoning}
        case "not utf-8":
            return b'{"message_type": "quantum\xff\xfe_message"}'
        case "not json":
            return b'{"message_type": "assistant_message", "content": '
        case _:
            return None


def added_event(garbling: Garbling) -> bytes | None:
    """The same as an event of a stream over HTTP."""
    chunk = added_chunk(garbling)
    if chunk is None:
        return None
    return b"data: " + (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) + b"\n\n"


def spoiled(event: bytes, garbling: Garbling | None) -> bytes:
    """An event with bytes in its reply that are no UTF-8, when that is wanted."""
    if garbling != "reply not utf-8" or b"assistant_message" not in event:
        return event
    return re.sub(rb'"content": ?"[^"]*', lambda found: found[0] + b"\xff", event, count=1)
