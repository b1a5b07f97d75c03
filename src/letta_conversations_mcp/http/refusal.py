"""How a request is refused before it is read: an HTTP status for machines, and a JSON-RPC error whose words a client
shows to its model. Its id is null, because nobody has read the request's."""

from __future__ import annotations

from collections.abc import Mapping

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.responses import JSONResponse


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    code = INTERNAL_ERROR if status in (429, 503) else INVALID_REQUEST
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}, status, headers)
