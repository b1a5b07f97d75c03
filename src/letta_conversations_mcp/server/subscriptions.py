"""Subscriptions: clients are notified when a conversation, or the list of them, has changed.

In the protocol of 2026-07-28 a client opens a stream (`subscriptions/listen`), which the SDK serves. In older versions
it subscribes to single resources on its connection, which is served here. Both get the same events. Capabilities and
acknowledgements promise only what is sent: changes of resources, never of tools or prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
from mcp.server import ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent, SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from letta_conversations_mcp.core.access import EVERYTHING, Access
from letta_conversations_mcp.core.errors import ConversationError, InvalidArgument, NotFound, Overloaded
from letta_conversations_mcp.core.model import CONVERSATION_ID
from letta_conversations_mcp.notifications.events import LIST_CHANGED, AgentListChanged
from letta_conversations_mcp.server.sdk_private import connection_of
from letta_conversations_mcp.tools.base import Services
from letta_conversations_mcp.tools.mcp_errors import raising_mcp_errors, to_mcp_error

MOST_LISTENING = 2_000
"""Streams that are open to notify clients: each client has one or none."""

MOST_PER_CLIENT = 50
"""Subscriptions per connection or stream."""

_SUBSCRIBABLE = re.compile(rf"letta://conversations/({CONVERSATION_ID.pattern})(?:/transcript(?:\.json)?(?:\?.*)?)?")

_OUTBOX = "outbox"
"""The key of a connection's outbox in its state."""

_NEVER_SENT = ("toolsListChanged", "promptsListChanged")

Context = ServerRequestContext[Services, Any]


class _Outbox:
    """Events not yet sent to a connection of the older protocol. A separate task writes them, so a client that does not
    read blocks no other; an event that repeats before it is written is sent once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[ServerEvent, None] = {}
        self._news = anyio.Event()
        self._writing = anyio.CancelScope()
        self.subscriptions: dict[str, Callable[[], None]] = {}

    def put(self, event: ServerEvent) -> None:
        """A listener of events."""
        subscribed = isinstance(event, ResourceUpdated) and event.uri in self.subscriptions
        if subscribed or isinstance(event, ResourcesListChanged):
            self._waiting[event] = None
            self._news.set()

    async def write(self) -> None:
        with self._writing:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                while self._waiting:
                    event = next(iter(self._waiting))
                    del self._waiting[event]
                    if isinstance(event, ResourceUpdated):
                        await self._connection.send_resource_updated(event.uri)
                    else:
                        await self._connection.send_resource_list_changed()

    def close(self) -> None:
        self._writing.cancel()
        while self.subscriptions:
            _, stop = self.subscriptions.popitem()
            stop()


class CallersBus:
    """A SubscriptionBus that filters by caller: a change of a list reaches only callers who can see its agent. `caller`
    returns the rights of the current request's caller."""

    def __init__(self, bus: SubscriptionBus) -> None:
        self._bus = bus
        self.caller: Callable[[], Access] = lambda: EVERYTHING

    async def publish(self, event: ServerEvent) -> None:
        await self._bus.publish(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Called within the request that subscribes."""
        access = self.caller()

        def deliver(event: ServerEvent) -> None:
            if not isinstance(event, AgentListChanged):
                listener(event)
            elif event.account == access.account and (access.agents is None or event.agent_id in access.agents):
                listener(LIST_CHANGED)

        return self._bus.subscribe(deliver)


class Subscriptions:
    """Serves subscriptions of both protocol generations. Calling it is a middleware of the MCP server."""

    def __init__(self, events: SubscriptionBus) -> None:
        self._events = events

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        match ctx.method:
            case "initialize" | "server/discover":
                return _announced(await call_next(ctx), subscribe=_can_notify(ctx))
            case "notifications/initialized" if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                if _can_notify(ctx):
                    self._outbox(ctx)
                return await call_next(ctx)
            case "subscriptions/listen":
                return await self._listen(ctx, call_next)
            case _:
                return await call_next(ctx)

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        """`resources/subscribe`, of the older protocol."""
        if not _can_notify(ctx):
            raise MCPError(
                code=METHOD_NOT_FOUND,
                message="This server keeps no sessions, so it cannot notify you of changes: read the resource again "
                "now and then. Clients of the protocol of 2026-07-28 are notified.",
            )
        subscriptions = self._outbox(ctx).subscriptions
        if params.uri not in subscriptions:
            if len(subscriptions) >= MOST_PER_CLIENT:
                raise MCPError(
                    code=INVALID_PARAMS, message=f"At most {MOST_PER_CLIENT} resources can be subscribed to."
                )
            with raising_mcp_errors({"uri": params.uri}):
                stop = await _watch(ctx, params.uri)
            # The same request may have arrived twice at the same time.
            subscriptions.setdefault(params.uri, stop)
            if subscriptions[params.uri] is not stop:
                stop()
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        """`resources/unsubscribe`, of the older protocol."""
        if _can_notify(ctx) and (stop := self._outbox(ctx).subscriptions.pop(params.uri, None)):
            stop()
        return EmptyResult()

    def _outbox(self, ctx: Context) -> _Outbox:
        connection = connection_of(ctx)
        outbox = connection.state.get(_OUTBOX)
        if outbox is None:
            outbox = connection.state[_OUTBOX] = _Outbox(connection)
            ctx.lifespan_context.background.start_soon(outbox.write)
            connection.exit_stack.callback(outbox.close)
            connection.exit_stack.callback(self._events.subscribe(outbox.put))
        return outbox

    async def _listen(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Watch the requested URIs while the stream is open. Those that cannot be watched are removed from the request,
        and so are missing in the SDK's acknowledgement."""
        wanted = (ctx.params or {}).get("notifications")
        if not isinstance(wanted, Mapping):
            return await call_next(ctx)
        asked = cast("Mapping[str, object]", wanted)
        uris = asked.get("resourceSubscriptions")
        held: dict[str, Callable[[], None]] = {}
        try:
            for uri in cast("Sequence[object]", uris)[:MOST_PER_CLIENT] if isinstance(uris, list) else ():
                if isinstance(uri, str) and uri not in held:
                    try:
                        held[uri] = await _watch(ctx, uri)
                    except (InvalidArgument, NotFound, Overloaded):
                        continue
                    except ConversationError as error:
                        raise to_mcp_error(error) from error
            honoured = {name: value for name, value in asked.items() if name not in _NEVER_SENT}
            if isinstance(uris, list):
                honoured["resourceSubscriptions"] = list(held)
            return await call_next(replace(ctx, params={**(ctx.params or {}), "notifications": honoured}))
        finally:
            for stop in held.values():
                stop()


async def _watch(ctx: Context, uri: str) -> Callable[[], None]:
    """Raises InvalidArgument for a URI that is not a conversation's, NotFound for a conversation that the caller cannot
    see."""
    found = _SUBSCRIBABLE.fullmatch(uri)
    if found is None:
        raise InvalidArgument("uri", f"{uri[:200]!r} cannot be subscribed to; conversations and their transcripts can.")
    services = ctx.lifespan_context
    return await services.poller.watch(found[1], uri, services.backend, services.scheduler.caller)


def _can_notify(ctx: Context) -> bool:
    """True if notifications can reach this client. Over HTTP without sessions a client of the older protocol gets only
    the answers to its requests; one of the newer protocol opens a stream."""
    return (
        ctx.request is None
        or connection_of(ctx).session_id is not None
        or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    )


def _announced(result: HandlerResult, *, subscribe: bool) -> HandlerResult:
    """The server's capabilities, corrected: the SDK promises notifications for all lists in the newer protocol, and for
    none in the older."""
    capabilities = result.get("capabilities") if isinstance(result, dict) else None
    if isinstance(capabilities, dict):
        if "resources" in capabilities:
            capabilities["resources"]["subscribe"] = subscribe
        for kind, notifies in (("resources", subscribe), ("tools", False), ("prompts", False)):
            if kind in capabilities:
                capabilities[kind]["listChanged"] = notifies
    return result
