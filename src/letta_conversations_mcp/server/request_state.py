"""Explains the SDK's refusal of a request state.

A client carries the state from one round of a call to the next. The SDK encrypts it, and rejects a state of another
call or caller, or one that is too old.
"""

from __future__ import annotations

from typing import Any

from mcp.server import ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError

REFUSED = {"reason": "invalid_request_state"}
"""The data of the SDK's error."""

MEANING = (
    "It is more than ten minutes old, or of another call or caller, or of a replica that has none of the same "
    "--request-state-keys. Nothing was done now. What the call did before it asked is done, and a tool call that waits "
    "for a decision still waits: respond_to_approval decides it, list_conversations finds its conversation. Do not "
    "send the message again."
)


async def explain_refusal(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """A middleware, to be put before the SDK's own."""
    try:
        return await call_next(ctx)
    except MCPError as error:
        if error.error.data != REFUSED:
            raise
        raise MCPError(error.error.code, f"{error.error.message}. {MEANING}", error.error.data) from error
