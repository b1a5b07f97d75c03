"""A log line for every request of a client: what it was about, how it ended, how long it took.

A middleware of the MCP server. It also ends requests that would delay a shutdown: listening streams at once, running
calls shortly before the deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, cast

import anyio
from mcp.server import ServerRequestContext
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolResult, SubscriptionsListenResult, TextContent
from opentelemetry import trace
from pydantic import BaseModel

from letta_conversations_mcp.observability.context import Subject, about, conversation_of
from letta_conversations_mcp.observability.request_id import request_id_of
from letta_conversations_mcp.turns.draining import Drain
from letta_conversations_mcp.turns.instrumentation import Meter, Outcome

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The label for all tools that do not exist: a client can call any name."""

LISTEN = "subscriptions/listen"

ATTRIBUTES = {
    "conversation_id": "gen_ai.conversation.id",
    "agent_id": "gen_ai.agent.id",
    "run_id": "letta.run.id",
}
"""The ids in an answer, and their attribute names in the span of its call."""

INTERRUPTED = (
    "This MCP server was shut down before the call had ended. Reading again is safe. If it was to change something, it "
    "may have been done all the same: look before you repeat it, in a few seconds."
)


class RequestLog:
    """`is_tool` is True for the names of tools. `with_texts`: log arguments and answers too."""

    def __init__(self, is_tool: Callable[[str], bool], drain: Drain, *, with_texts: bool) -> None:
        self._is_tool = is_tool
        self._drain = drain
        self._with_texts = with_texts

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            return await call_next(ctx)
        params = ctx.params or {}
        tool = self._tool_label(params.get("name")) if ctx.method == "tools/call" else ""
        arguments = _mapping(params.get("arguments"))
        token = get_access_token()
        subject = Subject(
            request_id=request_id_of(ctx.request),
            caller=token.client_id if token else "",
            tool=tool,
            conversation_id=conversation_of(arguments),
        )
        with about(subject):
            started = perf_counter()
            try:
                result = await self._answer(ctx, call_next)
            except MCPError as error:
                self._log(ctx, started, {"outcome": "error", "code": error.error.code}, arguments, {})
                raise
            shown = _as_sent(result)
            self._log(ctx, started, {"outcome": "error" if shown.get("isError") else "ok"}, arguments, shown)
            return result

    def _tool_label(self, name: object) -> str:
        return name if isinstance(name, str) and self._is_tool(name) else UNKNOWN

    async def _answer(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        with self._drain.until_draining() if ctx.method == LISTEN else self._drain.until_end():
            return await call_next(ctx)
        if ctx.method == LISTEN:
            return SubscriptionsListenResult(_meta={SUBSCRIPTION_ID_META_KEY: ctx.request_id})
        if ctx.method == "tools/call":
            return CallToolResult(content=[TextContent(type="text", text=INTERRUPTED)], is_error=True)
        raise MCPError(code=INTERNAL_ERROR, message=INTERRUPTED)

    def _log(
        self,
        ctx: ServerRequestContext[Any, Any],
        started: float,
        facts: Mapping[str, object],
        arguments: Mapping[str, object],
        result: Mapping[str, object],
    ) -> None:
        found = _mapping(result.get("structuredContent"))
        ids: dict[str, object] = {name: found[name] for name in ATTRIBUTES if found.get(name)}
        span = trace.get_current_span()
        for name, value in ids.items():
            span.set_attribute(ATTRIBUTES[name], str(value))
        if not logger.isEnabledFor(logging.INFO):
            return
        texts: dict[str, object] = {}
        if self._with_texts:
            texts = {"arguments": dict(arguments), "answer": result.get("content")}
        fields: dict[str, object] = {
            "method": ctx.method,
            **facts,
            "seconds": round(perf_counter() - started, 3),
            **ids,
            **texts,
        }
        words = " ".join(f"{name}={value}" for name, value in fields.items() if name not in texts)
        logger.info("answered: %s%s", words, f" {texts}" if texts else "", extra=fields)


@contextmanager
def counted(meter: Meter, tool: str) -> Generator[None]:
    """Report to the meter how a tool call ends. Must wrap the call where its errors are still exceptions."""
    started = perf_counter()
    outcome: Outcome = "ok"
    try:
        yield
    except UnexpectedToolError:
        outcome = "crash"
        raise
    except (ToolError, MCPError):
        outcome = "error"
        raise
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        meter.call(tool, outcome, perf_counter() - started)


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _as_sent(result: HandlerResult) -> Mapping[str, object]:
    """A result as JSON, whether it is a model or JSON already."""
    return result.model_dump(by_alias=True, mode="json") if isinstance(result, BaseModel) else _mapping(result)
