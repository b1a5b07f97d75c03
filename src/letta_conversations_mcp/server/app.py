"""Assembly: settings in, MCP server out."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mcp.server import CacheHint, MCPServer, ServerRequestContext
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    GetPromptResult,
    Icon,
    InputRequiredResult,
    Prompt,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    Tool,
    UnsubscribeRequestParams,
)

from letta_conversations_mcp import __version__
from letta_conversations_mcp.backends.announcing import AnnouncingBackend
from letta_conversations_mcp.backends.open import open_backend
from letta_conversations_mcp.backends.pool import open_pool
from letta_conversations_mcp.core.access import EVERYTHING, Access, Scope, account_of
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import Forbidden
from letta_conversations_mcp.core.imports import without
from letta_conversations_mcp.core.task_groups import background_tasks
from letta_conversations_mcp.notifications.poller import open_poller
from letta_conversations_mcp.observability.instrumentation import LoggingMeter
from letta_conversations_mcp.observability.request_log import UNKNOWN, RequestLog, counted
from letta_conversations_mcp.server.request_state import StateCodec, explain_refusal
from letta_conversations_mcp.server.resources import add_resources
from letta_conversations_mcp.server.sdk_private import add_request_handler
from letta_conversations_mcp.server.subscriptions import MOST_LISTENING, CallersBus, Subscriptions
from letta_conversations_mcp.server.tasks.extension import Tasks
from letta_conversations_mcp.server.viewer import hide_viewer_tools, viewer_app
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import Services, ToolContext, ToolSpec, services_of
from letta_conversations_mcp.tools.mcp_errors import to_mcp_error, to_tool_error
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.replicas import Replicas
from letta_conversations_mcp.turns.scheduler import open_scheduler
from letta_conversations_mcp.turns.timing import Timing

if TYPE_CHECKING:
    from letta_conversations_mcp.notifications.redis_bus import RedisSubscriptionBus
    from letta_conversations_mcp.server.caller_view import Callers
    from letta_conversations_mcp.server.prompts import PromptSpec
    from letta_conversations_mcp.server.tasks.handlers import TaskHandler

INSTRUCTIONS = (
    "Talk with Letta agents, which remember for months. An agent has many conversations: separate message threads that "
    "share its memory. send_message(agent=…) opens one and answers with its conversation_id; keep that id and pass it "
    "to continue. list_agents and list_conversations find what is there. When a reply takes long, send_message answers "
    "running: call wait_for_reply and never send the same message again."
)

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

ICON = Icon(
    src="data:image/svg+xml;base64,"
    + b64encode(
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="#36c" d="M3 4h13v9H8l-5 4z"/>'
        b'<path fill="#f93" d="M18 8h3v13l-4-3H9v-3h9z"/></svg>'
    ).decode(),
    mime_type="image/svg+xml",
    sizes=["any"],
)
"""Two speech bubbles. Small, because the newer protocol repeats it in every answer."""


class ConversationServer(MCPServer[Services]):
    """An MCP server with our tools and prompts.

    These are imported and built at the first request for them: that takes longer than the rest of a start, and a client
    needs its first answer before it lists them.

    `services` is set while the server runs. `drain` is begun when it shuts down. `access` returns the rights of the
    current caller: everything, until `know_callers`. `serves_many` is set before it runs if it serves many clients.
    """

    def __init__(self, settings: Settings, timing: Timing | None = None) -> None:
        self.services: Services | None = None
        self.access: Callable[[], Access] = lambda: EVERYTHING
        self.drain = Drain()
        self.meter = LoggingMeter()
        self.serves_many = False
        self._options = settings
        self._request_log = RequestLog(lambda name: name in self.specs, self.drain, with_texts=settings.log_messages)

        @asynccontextmanager
        async def lifespan(_: MCPServer[Services]) -> AsyncGenerator[Services]:
            async with (
                open_backend(settings, self.meter, for_many=self.serves_many) as opened,
                open_pool(settings) as pool,
                background_tasks() as background,
                open_poller(bus, interval=settings.watch_interval) as poller,
            ):
                if self.shared_bus is not None:
                    background.start_soon(self.shared_bus.run)
                backend = AnnouncingBackend(opened, bus)

                async def backend_of_key(key: str) -> Backend:
                    keyed = AnnouncingBackend(await pool.backend_of_key(key), bus, account_of(key))
                    pool.keep_open_for(key, keyed)
                    return keyed

                async with open_scheduler(
                    backend,
                    settings,
                    timing,
                    meter=self.meter,
                    drain=self.drain,
                    replicas=Replicas(settings) if settings.redis_url.get_secret_value() else None,
                ) as scheduler:
                    self.services = Services(backend, scheduler, settings, backend_of_key, poller, background)
                    yield self.services
                    self.services = None

        self.shared_bus = _shared_bus(settings)
        bus: SubscriptionBus = self.shared_bus or InMemorySubscriptionBus()
        self._callers_bus = CallersBus(bus)
        tasks = Tasks(settings, self._cancel, lambda: self.task_handlers)
        # What a caller may use changes with the token.
        listed = CacheHint(MINUTE_MS, "private") if settings.knows_callers else CacheHint(HOUR_MS, "public")
        keys = [key.get_secret_value() for key in settings.request_state_keys]
        # The SDK would load rich, if it is installed, to set up logging, which is set up by then.
        with without("rich"):
            super().__init__(
                "letta-conversations",
                title="Letta conversations",
                description="Conversations with Letta agents",
                instructions=INSTRUCTIONS,
                version=__version__,
                icons=[ICON],
                lifespan=lifespan,
                subscriptions=self._callers_bus,
                extensions=[tasks, viewer_app()],
                middleware=[
                    self._request_log,
                    tasks.check,
                ],
                log_level=settings.log_level,
                request_state_security=RequestStateSecurity(codec=StateCodec(keys)),
                cache_hints={
                    # Conversations and their content are private to the caller, and may change at any time.
                    "resources/list": CacheHint(ttl_ms=0, scope="private"),
                    "resources/read": CacheHint(ttl_ms=0, scope="private"),
                    "server/discover": CacheHint(ttl_ms=HOUR_MS, scope="public"),
                    # Depends on whether the client shows apps.
                    "tools/list": CacheHint(listed.ttl_ms, "private"),
                    "resources/templates/list": listed,
                    "prompts/list": listed,
                },
            )
        add_resources(self)
        subscriptions = Subscriptions(self._callers_bus)
        self.middleware.append(subscriptions)
        self.middleware.append(hide_viewer_tools)
        self.middleware.insert(0, explain_refusal)
        # In the place of the SDK's own, which has fewer places.
        listen = ListenHandler(self._callers_bus, max_subscriptions=MOST_LISTENING)
        add_request_handler(self, "subscriptions/listen", SubscriptionsListenRequestParams, listen)
        add_request_handler(self, "resources/subscribe", SubscribeRequestParams, subscriptions.subscribe)
        add_request_handler(self, "resources/unsubscribe", UnsubscribeRequestParams, subscriptions.unsubscribe)

    def know_callers(self, callers: Callers) -> None:
        """From now on, answer only callers with a token, each within their rights."""
        self.access = self._callers_bus.caller = callers.access
        self.middleware.insert(self.middleware.index(self._request_log), callers)

    @cached_property
    def specs(self) -> dict[str, ToolSpec]:
        """The tools that are offered, by name."""
        # Late, as in the properties below: see the class.
        from letta_conversations_mcp.tools.catalogue import TOOLS

        return {spec.name: spec for spec in TOOLS if spec.is_offered(self._options)}

    @cached_property
    def task_handlers(self) -> Mapping[str, TaskHandler]:
        """The tools whose calls may become tasks, by name."""
        from letta_conversations_mcp.server.tasks.handlers import TASK_HANDLERS

        return TASK_HANDLERS

    @cached_property
    def _prompts(self) -> Sequence[PromptSpec]:
        from letta_conversations_mcp.server.prompts import PROMPTS

        return [prompt for prompt in PROMPTS if not (prompt.writes and self._options.read_only)]

    def scope_of(self, tool: str) -> Scope | None:
        """The scope that a tool needs; None for an unknown tool."""
        spec = self.specs.get(tool)
        return spec.scope if spec else None

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: ToolContext | None = None
    ) -> GetPromptResult | InputRequiredResult:
        prompt = next((each for each in self._usable_prompts() if each.name == name), None)
        if prompt is None or context is None:
            raise MCPError(code=INVALID_PARAMS, message=f"There is no prompt {name[:80]!r}.")
        return await prompt.get(services_of(context), arguments or {})

    async def list_prompts(self) -> list[Prompt]:
        return [prompt.listed() for prompt in self._usable_prompts()]

    async def _cancel(self, ctx: ServerRequestContext[Services, Any], arguments: Mapping[str, str]) -> None:
        """Call the tool `cancel` on behalf of the caller of `ctx`."""
        if "cancel" not in self.specs:
            return
        try:
            await self.call_tool("cancel", dict(arguments), Context(request_context=ctx, mcp_server=self))
        except ToolError as error:
            raise to_mcp_error(error) from error

    async def list_tools(self) -> list[Tool]:
        return [self.specs[name].listed(self._options.wait_seconds) for name in self._usable()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: ToolContext | None = None
    ) -> CallToolResult | InputRequiredResult:
        spec, access = self.specs.get(name), self.access()
        with counted(self.meter, name if spec else UNKNOWN):
            if spec and not access.may(spec.scope):
                raise to_tool_error(Forbidden(name, spec.scope))
            if spec is None or not spec.may_be_used(access):
                raise ToolError(f"There is no tool {name[:80]!r}. There are: {', '.join(self._for_models())}.")
            if context is None:
                raise ToolError("A tool is called by a client of this server.")
            tool = spec.build(self._options.wait_seconds)
            return await tool.run(arguments, context, convert_result=True)

    def _usable_prompts(self) -> list[PromptSpec]:
        """The prompts whose tools the current caller may use."""
        access = self.access()
        return [prompt for prompt in self._prompts if access.may("write") or not prompt.writes]

    def _for_models(self) -> list[str]:
        """Those of the usable tools that a model calls: some are only for the viewer."""
        return [name for name in self._usable() if self.specs[name].for_models]

    def _usable(self) -> list[str]:
        """The tools that the current caller may use."""
        access = self.access()
        return [name for name, spec in self.specs.items() if spec.may_be_used(access)]


def _shared_bus(settings: Settings) -> RedisSubscriptionBus | None:
    """The bus that replicas share, if there are any."""
    if not settings.redis_url.get_secret_value():
        return None
    # Imported late: most servers have no replicas.
    from letta_conversations_mcp.notifications.redis_bus import RedisSubscriptionBus

    return RedisSubscriptionBus(settings)


def build_server(settings: Settings, timing: Timing | None = None) -> ConversationServer:
    """A server for any transport of the SDK. It opens its backend when the transport starts.

    `timing` replaces the usual times, for tests.
    """
    return ConversationServer(settings, timing)
