"""Hands one message over to the App Server and finds out what the server did with it.

An acceptance does not mean that a turn begins. The server also accepts a message under a known id, and drops it; a
message that it queues, to answer the whole queue in one turn; and a message whose turn then fails to begin because of
another "active run" (all seen with 0.34.12). This module distinguishes these cases, in about 50 ms.
"""

from __future__ import annotations

from enum import Enum, auto

import anyio

from letta_conversations_mcp.backends.app_server.app_server_json import client_message_id, otid_of
from letta_conversations_mcp.backends.app_server.connection import Connection, Frame, Frames
from letta_conversations_mcp.backends.app_server.conversation_state import IDLE, STREAMING, read_state, scope
from letta_conversations_mcp.backends.app_server.turn_stream import TurnReader
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import ConversationError, Refused
from letta_conversations_mcp.core.message_json import mapping_field, mappings, text_field
from letta_conversations_mcp.core.model import Chunk, ConversationRef, OutgoingMessage

START_SECONDS = 1.0
"""Timeout for the first frame of a turn after its message was accepted. It normally comes with the acceptance."""


class Outcome(Enum):
    """What became of a message that the server accepted."""

    BEGUN = auto()
    """Its turn runs, or waits in the server's queue and could no longer be withdrawn."""
    WITHDRAWN = auto()
    """It was queued behind another client's message, and withdrawn. Its id can be used again."""
    CONFLICT = auto()
    """Its turn did not begin, because another run was active. Its id is used up, and nothing is stored."""
    DROPPED = auto()
    """The server already knew its id."""


async def hand_over(
    connection: Connection,
    ref: ConversationRef,
    message: OutgoingMessage,
    attempt: int,
    offers: dict[str, object],
    frames: Frames,
    reader: TurnReader,
    early: list[Chunk],
) -> Outcome:
    """Send the message, and read `frames` until its outcome is known; later frames stay unread.

    Args:
        attempt: counts the ids that were used up for this message, from 1.
        offers: the fields about tools that are sent along.
        early: receives the chunks of the turn that arrived until then.

    Raises:
        Refused: the server did not accept it.
        StreamLost: it is uncertain whether the server has it.
    """
    payload: dict[str, object] = {
        "kind": "create_message",
        "messages": [
            {
                "role": "user",
                "content": _content(message),
                "client_message_id": client_message_id(message.otid, attempt),
            }
        ],
        **offers,
    }
    try:
        acceptance = await connection.request("input", what="take the message", runtime=scope(ref), payload=payload)
        if acceptance.get("disposition") == "queued":
            return await _withdraw(connection, ref, message.otid, frames, reader, early)
        return await _until_begun(connection, ref, text_field(acceptance, "request_id"), frames, reader, early)
    except Refused:
        raise
    except ConversationError as error:
        raise StreamLost(str(error)) from error
    except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
        raise StreamLost("the connection to the App Server broke") from error


def _content(message: OutgoingMessage) -> object:
    parts: list[dict[str, object]] = [{"type": "text", "text": message.text}] if message.text else []
    for image in message.images:
        source = (
            {"type": "url", "url": image.url}
            if image.url
            else {"type": "base64", "media_type": image.media_type, "data": image.data}
        )
        parts.append({"type": "image", "source": source})
    return parts if message.images else message.text


async def _until_begun(
    connection: Connection,
    ref: ConversationRef,
    request_id: str,
    frames: Frames,
    reader: TurnReader,
    early: list[Chunk],
) -> Outcome:
    accepted = False
    with anyio.move_on_after(START_SECONDS):
        while True:
            frame = await frames.receive()
            early.extend(reader.read(frame))
            accepted = accepted or frame.get("request_id") == request_id
            if reader.conflict:
                return Outcome.CONFLICT
            if reader.taken or reader.ended:
                return Outcome.BEGUN
            status = _loop_status(frame)
            # Before the acceptance it may be another client's turn.
            if accepted and status not in IDLE and not mapping_field(frame, "loop_status").get("active_run_ids"):
                reader.begun = True
                # The server checks for another active run before it sends this.
                if status == STREAMING:
                    return Outcome.BEGUN
    state = await read_state(connection, ref)
    return Outcome.BEGUN if state.active or reader.begun else Outcome.DROPPED


async def _withdraw(
    connection: Connection,
    ref: ConversationRef,
    otid: str,
    frames: Frames,
    reader: TurnReader,
    early: list[Chunk],
) -> Outcome:
    with anyio.move_on_after(START_SECONDS):
        while not reader.begun:
            frame = await frames.receive()
            early.extend(reader.read(frame))
            for item in mappings(frame.get("queue")):
                if otid_of(text_field(item, "client_message_id")) == otid:
                    try:
                        await connection.request(
                            "remove_queue_item",
                            what="take the message out of its queue",
                            runtime=scope(ref),
                            item_id=text_field(item, "id"),
                        )
                    except Refused:
                        return Outcome.BEGUN
                    return Outcome.WITHDRAWN
    return Outcome.BEGUN


def _loop_status(frame: Frame) -> str:
    return text_field(mapping_field(frame, "loop_status"), "status")
