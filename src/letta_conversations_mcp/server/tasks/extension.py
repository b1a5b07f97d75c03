"""The extension `io.modelcontextprotocol/tasks`: a long call answers with a task, whose result is fetched later.

Only clients that declare the extension get tasks. Tasks are not stored: the id, encrypted, says where the work goes on,
so every replica and a restarted process can answer. The caller must be able to see the conversation, no matter who
started the task. Only a call that this process itself continues is also kept in memory here; other processes look up
its outcome at Letta.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server import ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    RequestParams,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ConfigDict, Field

from letta_conversations_mcp.core.errors import ConversationError, Refused
from letta_conversations_mcp.settings import Settings
from letta_conversations_mcp.tools.base import Services
from letta_conversations_mcp.tools.mcp_errors import to_mcp_error

if TYPE_CHECKING:
    from letta_conversations_mcp.server.tasks.handlers import TaskHandler, TaskState, Trace

logger = logging.getLogger(__name__)

IDENTIFIER = "io.modelcontextprotocol/tasks"

POLL_MS = 2_000
"""The poll interval that clients are asked to use."""

GRACE_SECONDS = 1.0
"""A call that ends within this time is answered without a task."""

LONGEST_ID = 4_000
"""Characters. Over HTTP the id is also in a header, and proxies commonly take eight thousand for all of them."""

MOST_JOBS = 500

Context = ServerRequestContext[Services, Any]


class TaskParams(RequestParams):
    """Of `tasks/get` and `tasks/cancel`. Built at first use, as the types in core.model are."""

    model_config = ConfigDict(defer_build=True)

    task_id: str = Field(alias="taskId", max_length=LONGEST_ID)


class UpdateParams(TaskParams):
    """Of `tasks/update`."""

    input_responses: dict[str, Any] = Field(default_factory=dict, alias="inputResponses")


@dataclass(frozen=True)
class Handle:
    """The content of a task's id: the tool, when it was called, how to find its work, and the key of the job that
    continues it in the process that created it."""

    tool: str
    at: datetime
    trace: Trace
    job: str = ""

    @property
    def created_at(self) -> str:
        return _iso(self.at)


class Seal:
    """Makes ids that only processes with the same settings can create and read.

    The keys come from those that the replicas share for request states, or else from the key for Letta, which all of
    them have; without either, they are random, and a restart forgets all tasks. They are derived with a slow hash, so
    that an id does not help to guess a password.
    """

    def __init__(self, settings: Settings) -> None:
        shared = [key.get_secret_value() for key in settings.request_state_keys]
        key = settings.api_key.get_secret_value()
        self._secrets = shared or [json.dumps([key, settings.base_url]) if key else token_hex(32)]

    @cached_property
    def _codec(self) -> AESGCMRequestStateCodec:
        salt = b"letta-conversations-mcp/tasks"
        keys = [hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1) for secret in self._secrets]
        return AESGCMRequestStateCodec(keys)

    def seal(self, handle: Handle) -> str:
        content = [handle.tool, handle.at.timestamp(), handle.trace, handle.job]
        return self._codec.seal(zlib.compress(json.dumps(content, separators=(",", ":")).encode()))

    def unseal(self, task_id: str) -> Handle:
        """Raises MCPError for an id that is not ours."""
        try:
            content = cast("list[Any]", json.loads(zlib.decompress(self._codec.unseal(task_id))))
            tool, at, trace, job = content
            return Handle(tool, datetime.fromtimestamp(at, UTC), trace, job)
        except (InvalidRequestState, zlib.error, ValueError) as error:
            raise MCPError(code=INVALID_PARAMS, message="There is no such task on this server.") from error


class Job:
    """A call that continues in this process after it was answered with a task."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.result: HandlerResult = None
        self.error: ErrorData | None = None
        self._running = anyio.CancelScope()

    async def run(self, call: Callable[[], Awaitable[HandlerResult]]) -> None:
        with self._running:
            try:
                self.result = await call()
            except MCPError as error:
                self.error = error.error
            except Exception:
                logger.exception("a call that had become a task failed unexpectedly")
                self.error = ErrorData(code=INTERNAL_ERROR, message="Internal server error")
        self.ended.set()

    def stop(self) -> None:
        self._running.cancel()

    def outcome(self) -> HandlerResult:
        """The result that the call itself would have returned."""
        if self.error is not None:
            raise MCPError.from_error_data(self.error)
        return self.result

    def show(self) -> dict[str, Any]:
        """The status fields of the task."""
        if not self.ended.is_set():
            return {"status": "working"}
        if self.error is not None:
            error = self.error.model_dump(by_alias=True, mode="json", exclude_none=True)
            return {"status": "failed", "statusMessage": self.error.message, "error": error}
        if isinstance(self.result, CallToolResult):
            return _completed(self.result)
        return {"status": "cancelled"}


class Tasks(Extension):
    """The extension. `handlers` returns the supported tools, and is called when one of them is."""

    identifier = IDENTIFIER

    def __init__(
        self,
        settings: Settings,
        cancel: Callable[[Context, Mapping[str, str]], Awaitable[None]],
        handlers: Callable[[], Mapping[str, TaskHandler]],
    ) -> None:
        self._seal = Seal(settings)
        self._cancel_at_letta = cancel
        self._handlers = handlers
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def methods(self) -> Sequence[MethodBinding]:
        modern = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", TaskParams, self._get, modern),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, modern),
            MethodBinding("tasks/update", UpdateParams, self._update, modern),
        ]

    async def check(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """A middleware: the extension's rules for other requests, and for headers."""
        params = ctx.params or {}
        if ctx.method == "initialize":
            # The extension is of the newer protocol.
            result = await call_next(ctx)
            if isinstance(result, dict):
                result["capabilities"].pop("extensions", None)
            return result
        wanted = params.get("notifications")
        if ctx.method == "subscriptions/listen" and isinstance(wanted, Mapping) and "taskIds" in wanted:
            require_client_extension(ctx, IDENTIFIER)
        if ctx.method.startswith("tasks/") and ctx.request is not None:
            named = decode_header_value(ctx.request.headers.get("mcp-name"))
            if named is not None and named != params.get("taskId"):
                raise MCPError(code=HEADER_MISMATCH, message="Mcp-Name header does not match params.taskId")
        return await call_next(ctx)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        arguments = params.arguments or {}
        handler = self._handlers().get(params.name)
        if handler is None or not _is_declared(ctx) or not handler.suits(arguments):
            return await call_next(ctx)
        if handler.goes_on_here:
            return await self._carry_on(params.name, handler, arguments, ctx, call_next)
        services = ctx.lifespan_context
        at = datetime.now(UTC)
        view = replace(services, scheduler=services.scheduler.until_running())
        result = await call_next(replace(ctx, lifespan_context=view))
        if not isinstance(result, CallToolResult) or result.is_error:
            return result
        trace = await handler.trace(services, arguments, result)
        task = self._created(Handle(params.name, at, trace)) if trace else None
        return task or result

    async def _carry_on(
        self, name: str, handler: TaskHandler, arguments: Mapping[str, Any], ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """Make the call; answer with a task if it takes longer than GRACE_SECONDS."""
        if not self._has_room():
            return await call_next(ctx)
        job = Job()
        at = datetime.now(UTC)
        ctx.lifespan_context.background.start_soon(job.run, lambda: call_next(ctx))
        try:
            with anyio.move_on_after(GRACE_SECONDS):
                await job.ended.wait()
            if job.ended.is_set():
                return job.outcome()
            trace = await handler.trace(ctx.lifespan_context, arguments, None)
        except ConversationError:
            # Work that could not be found again is awaited.
            await job.ended.wait()
            return job.outcome()
        except anyio.get_cancelled_exc_class():
            job.stop()
            raise
        key = secrets.token_hex(8)
        task = self._created(Handle(name, at, trace, key))
        if task is None:
            await job.ended.wait()
            return job.outcome()
        self._jobs[key] = job
        return task

    def _has_room(self) -> bool:
        """True if one more job can be kept. The oldest job that has ended is forgotten to make room."""
        if len(self._jobs) >= MOST_JOBS:
            ended = next((key for key, job in self._jobs.items() if job.ended.is_set()), None)
            if ended is None:
                return False
            del self._jobs[ended]
        return True

    def _created(self, handle: Handle) -> dict[str, Any] | None:
        """The answer to a call that has become a task; None if its id would be too long."""
        task_id = self._seal.seal(handle)
        if len(task_id) > LONGEST_ID:
            return None
        return _task(task_id, handle) | {"resultType": "task", "status": "working"}

    async def _get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        handle, handler = self._opened(ctx, params)
        state = await self._find(ctx, handle, handler)
        return _task(params.task_id, handle) | state

    async def _find(self, ctx: Context, handle: Handle, handler: TaskHandler) -> dict[str, Any]:
        services = ctx.lifespan_context
        try:
            if job := self._jobs.get(handle.job):
                await handler.check(services, handle.trace)
                return job.show()
            return _shown(await handler.find(services, handle.trace, handle.at))
        except Refused as error:
            # A failure of the work is its result.
            return _completed(CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True))
        except ConversationError as error:
            raise to_mcp_error(error) from error

    async def _cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        """Stop what can be stopped. The answer acknowledges the request; `tasks/get` shows what came of it."""
        handle, handler = self._opened(ctx, params)
        shown = await self._find(ctx, handle, handler)
        if shown["status"] == "working":
            if job := self._jobs.get(handle.job):
                job.stop()
            for arguments in handler.stoppable(handle.trace):
                await self._cancel_at_letta(ctx, arguments)
        return {}

    async def _update(self, ctx: Context, params: UpdateParams) -> dict[str, Any]:
        """No task of ours asks for input, so there is nothing to update."""
        handle, handler = self._opened(ctx, params)
        await self._find(ctx, handle, handler)
        return {}

    def _opened(self, ctx: Context, params: TaskParams) -> tuple[Handle, TaskHandler]:
        require_client_extension(ctx, IDENTIFIER)
        handle = self._seal.unseal(params.task_id)
        handler = self._handlers().get(handle.tool)
        if handler is None:
            raise MCPError(code=INVALID_PARAMS, message="The task is of a tool that this version does not have.")
        return handle, handler


def _is_declared(ctx: Context) -> bool:
    capabilities = ctx.session.client_capabilities
    declared = capabilities.extensions if capabilities else None
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and IDENTIFIER in (declared or {})


def _task(task_id: str, handle: Handle) -> dict[str, Any]:
    return {
        "taskId": task_id,
        "createdAt": handle.created_at,
        # It was just found.
        "lastUpdatedAt": _iso(datetime.now(UTC)),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


def _shown(state: TaskState) -> dict[str, Any]:
    if state.result is not None and state.status == "completed":
        return _completed(state.result.to_mcp())
    words = {"statusMessage": state.words} if state.words else {}
    return {"status": state.status} | words


def _completed(result: CallToolResult) -> dict[str, Any]:
    shown = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {"status": "completed", "result": shown}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
