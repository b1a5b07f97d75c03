"""A connection to an App Server: requests and answers, and the frames of conversations for listeners.

Speaks the App Server's WebSocket protocol, version 1 (tested with Letta Code 0.34.12), over one socket.
`SubscriptionKeeper` subscribes to the same conversations from a process of its own, because the server stops a turn
whose last subscribed socket closes, and its conversation is then unusable until the server restarts (measured).

Unknown frames are ignored. The server, for its part, never answers a command that it does not know, so every request
has a timeout.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from pydantic_core import from_json, to_json
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from letta_conversations_mcp.backends.app_server.broken_files import broken_line
from letta_conversations_mcp.backends.app_server.error_texts import delete_line, is_broken_file, next_step
from letta_conversations_mcp.backends.app_server.process import AppServer
from letta_conversations_mcp.backends.app_server.subscription_keeper import SubscriptionKeeper
from letta_conversations_mcp.backends.app_server.turn_lock import lock_folder
from letta_conversations_mcp.core.errors import Refused, ServerFault, TimedOut, Unauthorized, Unreachable
from letta_conversations_mcp.core.message_json import mapping_field, text_field
from letta_conversations_mcp.core.model import ConversationRef
from letta_conversations_mcp.core.quoting import said
from letta_conversations_mcp.core.task_groups import background_tasks

SETTING = "--app-server-url (or LETTA_MCP_APP_SERVER_URL)"
"""The setting with the App Server's address, for error texts."""

PROTOCOL_VERSION = 1
TESTED_VERSION = "0.34.12"
NEEDED = ("agent_management", "conversation_management", "runtime_start")

QUESTIONS = frozenset(
    {
        "agent_list",
        "agent_retrieve",
        "app_server_info",
        "conversation_list",
        "conversation_messages_list",
        "conversation_retrieve",
        "list_models",
        "runtime_start",
        "sync",
    }
)
"""Commands that change nothing in a conversation."""

PROGRESS = frozenset({"stream_delta", "turn_finished", "control_request"})
"""Frames that show progress of a turn. The others are sent whenever the server is asked for its state."""

AGAIN = "It was only a question, which changes nothing: the same call may succeed in a moment."
UNSURE = "Nothing is sure about it; look before repeating it."

KEEP_SECONDS = 3
"""How long the server is kept from being ended after a use: longer than any pause within an operation."""

FRAME_BYTES = 64 * 1024 * 1024
"""The largest accepted frame: a page of messages with images."""

Frame = Mapping[str, object]
Frames = MemoryObjectReceiveStream[Frame]


class ConnectionBroken(ServerFault):
    """The connection broke before the server answered."""

    def __init__(self, what: str) -> None:
        super().__init__(what, 0, "the connection broke", "The next call opens a new one; look before repeating this.")


class Connection:
    """One open connection. Created by `open_connection`."""

    def __init__(
        self, server: AppServer, socket: ClientConnection, keeper: SubscriptionKeeper, request_seconds: float
    ) -> None:
        self.server = server
        self.url = server.url
        self.lock_folder = lock_folder(server)
        self._socket = socket
        self._keeper = keeper
        self._request_seconds = request_seconds
        self._waiting: dict[str, _Answer] = {}
        self._listeners: dict[tuple[str, str], list[MemoryObjectSendStream[Frame]]] = {}
        self._subscribed: set[tuple[str, str]] = set()
        self._progress: dict[tuple[str, str], float] = {}
        """When each conversation's turn last made progress, on the event loop's clock."""
        self._settled: set[tuple[str, str]] = set()
        """Conversations of which the server has sent nothing but its device status since it said that a turn ended."""
        self._unanswered = False
        """True if it is uncertain whether the server received one of the requests."""
        self.ended = anyio.Event()
        self._uses = 0
        self._used = anyio.Event()
        self._used_at = 0.0

    def keep(self) -> bool:
        """Keep the server from being ended because of its size, until a few seconds after the last use. False if it is
        being ended now."""
        with self._in_use():
            self._used.set()
        return self.server.activity is None or self.server.activity.hold()

    async def release_when_idle(self) -> None:
        """Let the server be stopped whenever this connection is idle."""
        while self.server.activity is not None:
            await self._used.wait()
            self._used = anyio.Event()
            # Nothing happens when the time since the last use is over, so there is no event to wait for.
            while self._uses or anyio.current_time() < self._used_at + KEEP_SECONDS:  # noqa: ASYNC110
                await anyio.sleep(KEEP_SECONDS)
            self.server.activity.release()

    @contextmanager
    def _in_use(self) -> Generator[None]:
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            self._used_at = anyio.current_time()

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    async def request(self, command: str, *, what: str, seconds: float | None = None, **fields: object) -> Frame:
        """Send a command and return its answer.

        Args:
            what: the purpose, for error texts ("list the conversations").
            seconds: the timeout; None for that of the connection.

        Raises:
            Refused: the server reported a failure.
            TimedOut: it did not answer, for example because it does not know the command.
            ConnectionBroken: the connection broke.
        """
        answer = await self._exchange(command, what, seconds, fields)
        if answer.get("success") is False or answer.get("accepted") is False:
            reason = text_field(answer, "error") or "no reason given"
            raise Refused(what, said(reason), await self._next_step(reason, fields))
        return answer

    async def _next_step(self, reason: str, fields: Mapping[str, object]) -> str:
        conversation_id = text_field(fields, "conversation_id")
        if self.server.in_use is not None and conversation_id and is_broken_file(reason):
            within = mapping_field(fields, "query") or mapping_field(fields, "body") or fields
            ref = ConversationRef(conversation_id=conversation_id, agent_id=text_field(within, "agent_id"))
            if found := await anyio.to_thread.run_sync(broken_line, self.server.in_use.parent, ref):
                return delete_line(*found)
        return next_step(reason)

    async def subscribe(self, ref: ConversationRef, mode: str) -> None:
        """Subscribe to a conversation, also from the subscription keeper, and set its permission mode."""
        key = (ref.agent_id, ref.conversation_id)
        if key in self._subscribed:
            return
        with self._in_use():
            async with background_tasks(join=True) as tasks:
                tasks.start_soon(self._keeper.watch, ref, mode)
                await self.request(
                    "runtime_start",
                    what="open the conversation",
                    agent_id=ref.agent_id,
                    conversation_id=ref.conversation_id,
                    mode=mode,
                    wait_for_replay=True,
                    client_info={"name": "letta-conversations-mcp"},
                )
        self._subscribed.add(key)

    def seconds_without_progress(self, ref: ConversationRef) -> float:
        """Seconds since a conversation's turn made progress, or since the first call of this."""
        now = anyio.current_time()
        return now - self._progress.setdefault((ref.agent_id, ref.conversation_id), now)

    async def is_settled(self, ref: ConversationRef) -> bool:
        """True if this connection has seen a turn of the conversation end, and nothing begin since. False if it cannot
        tell.

        A small request makes sure that every frame which the server has sent before is read. Reporting its whole state
        would take the server 8 ms (0.34.12).
        """
        key = (ref.agent_id, ref.conversation_id)
        if key in self._settled:
            await self.request("app_server_info", what="tell its version")
        return key in self._settled

    @contextmanager
    def listen(self, ref: ConversationRef) -> Generator[Frames]:
        """The frames of a conversation from now on. The stream ends when the connection does."""
        send, receive = anyio.create_memory_object_stream[Frame](math.inf)
        listeners = self._listeners.setdefault((ref.agent_id, ref.conversation_id), [])
        listeners.append(send)
        try:
            with self._in_use():
                yield receive
        finally:
            listeners.remove(send)
            send.close()
            receive.close()

    async def _exchange(self, command: str, what: str, seconds: float | None, fields: Mapping[str, object]) -> Frame:
        request_id = str(uuid.uuid4())
        answer = self._waiting[request_id] = _Answer()
        bound = self._request_seconds if seconds is None else seconds
        try:
            with self._in_use():
                await self._socket.send(to_json({"type": command, "request_id": request_id, **fields}).decode())
                with anyio.fail_after(bound):
                    await answer.arrived.wait()
        except ConnectionClosed as error:
            raise ConnectionBroken(what) from error
        except TimeoutError as error:
            raise TimedOut(what, bound, AGAIN if command in QUESTIONS else UNSURE) from error
        finally:
            del self._waiting[request_id]
            self._unanswered = self._unanswered or answer.frame is None
        if answer.frame is None:
            raise ConnectionBroken(what)
        return answer.frame

    async def read(self) -> None:
        """Take the server's frames until it closes the socket."""
        try:
            async for data in self._socket:
                try:
                    frame = from_json(data)
                except ValueError:
                    continue
                if isinstance(frame, dict):
                    self._receive(cast("Frame", frame))
        except ConnectionClosed:
            pass

    def _receive(self, frame: Frame) -> None:
        waiting = self._waiting.get(text_field(frame, "request_id"))
        if waiting is not None and frame.get("type") != "control_request":
            waiting.set(frame)
            # Listeners need to see an acceptance in its order among the frames of the turns.
            if frame.get("type") != "input_accepted":
                return
        runtime = mapping_field(frame, "runtime") or frame
        key = (text_field(runtime, "agent_id"), text_field(runtime, "conversation_id"))
        if frame.get("type") in PROGRESS:
            self._progress[key] = anyio.current_time()
        if frame.get("type") == "turn_finished":
            self._settled.add(key)
        elif frame.get("type") != "update_device_status" or mapping_field(frame, "device_status").get(
            "pending_control_requests"
        ):
            self._settled.discard(key)
        for listener in self._listeners.get(key, ()):
            listener.send_nowait(frame)

    def abandon(self) -> None:
        """Give up a connection that has gone silent. The next call opens a new one."""
        self._socket.transport.abort()

    def close(self, *, broken: bool = False) -> None:
        """End all waits: nothing more will arrive."""
        self.ended.set()
        self._keeper.close(goodbye=not (broken or self._unanswered))
        for answer in self._waiting.values():
            answer.set(None)
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.close()


def received(frames: Frames) -> list[Frame]:
    """The frames that have arrived and have not been read yet."""
    taken: list[Frame] = []
    while frames.statistics().current_buffer_used:
        taken.append(frames.receive_nowait())
    return taken


class _Answer:
    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.arrived = anyio.Event()

    def set(self, frame: Frame | None) -> None:
        self.frame = frame
        self.arrived.set()


@asynccontextmanager
async def open_connection(
    server: AppServer, *, connect_seconds: float, request_seconds: float
) -> AsyncGenerator[Connection]:
    """Connect and check the protocol. The connection lasts until the body ends; if the socket closes, the body is
    cancelled.

    Raises:
        Unreachable, Unauthorized: no App Server answers there, or it does not accept the token.
    """
    url, token = server.url, server.token
    try:
        socket = await connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"} if token else {},
            open_timeout=connect_seconds,
            max_size=FRAME_BYTES,
            proxy=None,
            # The server is on this machine, where it would cost both sides time for nothing.
            compression=None,
        )
    except InvalidHandshake as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status == 401:
            raise Unauthorized(url, key_given=bool(token), variable="LETTA_MCP_APP_SERVER_TOKEN") from error
        raise Unreachable(url, "What answers there is no App Server", setting=SETTING) from error
    except (OSError, TimeoutError, InvalidURI) as error:
        raise Unreachable(url, "The App Server cannot be reached", setting=SETTING) from error
    connection = Connection(server, socket, SubscriptionKeeper(url, token, server.in_use), request_seconds)
    is_checked = False
    try:
        async with background_tasks() as tasks:

            async def read() -> None:
                await connection.read()
                connection.close(broken=True)
                tasks.cancel_scope.cancel()

            tasks.start_soon(read)
            connection.keep()
            tasks.start_soon(connection.release_when_idle)
            await _check_protocol(connection)
            is_checked = True
            yield connection
    finally:
        connection.close()
        with anyio.move_on_after(1, shield=True):
            await socket.close()
        # A server that is shutting down may not answer in time.
        socket.transport.abort()
    if not is_checked:
        # The socket closed during the check and cancelled it.
        raise ConnectionBroken("tell its version")


async def _check_protocol(connection: Connection) -> None:
    info = await connection.request("app_server_info", what="tell its version")
    version = info.get("protocol_version")
    if version != PROTOCOL_VERSION:
        raise Unreachable(
            connection.url,
            f"The App Server speaks protocol version {version!r}, and this program version {PROTOCOL_VERSION} "
            f"(tested with Letta Code {TESTED_VERSION}, it is {text_field(info, 'letta_code_version') or 'unknown'})",
        )
    capabilities = mapping_field(info, "capabilities")
    if missing := [name for name in NEEDED if capabilities.get(name) is not True]:
        raise Unreachable(connection.url, f"The App Server lacks what is needed: {', '.join(missing)}")
