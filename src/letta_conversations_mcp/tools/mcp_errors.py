"""Our errors as MCP's. No other module decides which code an error gets.

A tool's error is a result that the model reads (`ToolError`); a resource's has a class of its own in the SDK; any other
request is answered with a JSON-RPC error (`MCPError`). All three carry the text of the error as it is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST

from letta_conversations_mcp.core.errors import (
    Ambiguous,
    ConversationError,
    Forbidden,
    InvalidArgument,
    NotFound,
    Refused,
)


def to_tool_error(error: ConversationError) -> ToolError:
    return ToolError(str(error))


def to_mcp_error(error: ConversationError | ToolError, data: Any = None) -> MCPError:
    """`data` is sent along as the error's `data`, in any JSON shape."""
    return MCPError(code=_code_of(error), message=str(error), data=data)


@contextmanager
def raising_mcp_errors(data: Any = None) -> Generator[None]:
    """Raises the ConversationErrors of the body as MCPErrors."""
    try:
        yield
    except ConversationError as error:
        raise to_mcp_error(error, data) from error


@contextmanager
def raising_resource_errors() -> Generator[None]:
    """Raises the ConversationErrors of the body as the errors that the SDK expects of a resource."""
    try:
        yield
    except (NotFound, InvalidArgument) as error:
        raise ResourceNotFoundError(str(error)) from error
    except ConversationError as error:
        raise ResourceError(str(error)) from error


def _code_of(error: Exception) -> int:
    match error:
        case InvalidArgument() | NotFound() | Ambiguous() | Refused():
            return INVALID_PARAMS
        case Forbidden():
            return INVALID_REQUEST
        case _:
            return INTERNAL_ERROR
