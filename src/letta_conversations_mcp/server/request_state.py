"""Request states: their encryption, made when the first is used, and the SDK's refusal of one, explained.

A client carries the state from one round of a call to the next. The SDK encrypts it, and rejects a state of another
call or caller, or one that is too old.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mcp.server import ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.request_state import AESGCMRequestStateCodec
from mcp.shared.exceptions import MCPError

REFUSED = {"reason": "invalid_request_state"}
"""The data of the SDK's error."""

MEANING = (
    "It is more than ten minutes old, or of another call or caller, or of a replica that has none of the same "
    "--request-state-keys. Nothing was done now. What the call did before it asked is done, and a tool call that waits "
    "for a decision still waits: respond_to_approval decides it, list_conversations finds its conversation. Do not "
    "send the message again."
)


class StateCodec:
    """The SDK's encryption with these keys, or else with one of its own: states then end with the process.

    Cryptography is loaded for the first state. It takes 10 MB, and most clients never need a state.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys or [secrets.token_hex(32)]

    @cached_property
    def _codec(self) -> AESGCMRequestStateCodec:
        return AESGCMRequestStateCodec(self._keys)

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        """Raises InvalidRequestState."""
        return self._codec.unseal(token)


async def explain_refusal(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """A middleware, to be put before the SDK's own."""
    try:
        return await call_next(ctx)
    except MCPError as error:
        if error.error.data != REFUSED:
            raise
        raise MCPError(error.error.code, f"{error.error.message}. {MEANING}", error.error.data) from error
