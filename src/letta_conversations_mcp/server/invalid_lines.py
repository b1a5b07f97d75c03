"""Lines over stdio that the SDK cannot parse: it drops them, and a client that waits for an answer hangs.

A lone surrogate (`"\\ud83d"`, half of an emoji that a client has cut) is replaced by U+FFFD and the message taken.
Anything else is answered with the error that JSON-RPC has for it, under the id of the request where one can be read.
"""

from __future__ import annotations

import json
import logging
import re
from contextvars import Context
from types import TracebackType
from typing import Any, Self, cast

from anyio import EndOfStream
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

logger = logging.getLogger(__name__)

_ID = re.compile(r'"id"\s*:\s*(-?\d{1,18}(?=\s*[,}])|"[^"\\]{1,200}")')
_SURROGATE = re.compile("[\ud800-\udfff]")

Id = int | str | None


class Unparsed(Exception):
    """A line that is not a message; `answer` is the reply to its sender, None for a notification."""

    def __init__(self, answer: JSONRPCError | None) -> None:
        self.answer = answer
        super().__init__("a line from the client is no JSON-RPC message")


def repair(problem: Exception) -> JSONRPCMessage:
    """The message that a line was meant to be, from the SDK's error about it. Raises Unparsed."""
    if not isinstance(problem, ValidationError):
        raise Unparsed(_error(PARSE_ERROR, None, "The message could not be read.")) from problem
    errors = problem.errors(include_url=False, include_context=False)
    if errors[0]["type"] != "json_invalid":
        # A whole message is the input of the errors about what it lacks; that of any other is a part of it.
        whole = next((each["input"] for each in errors if each["type"] in ("missing", "model_type")), None)
        raise Unparsed(_invalid(whole)) from problem
    line = str(errors[0]["input"])
    try:
        data = json.loads(line)
    except ValueError as error:
        ids = _ID.findall(line)
        known: Id = json.loads(ids[0]) if len(ids) == 1 else None
        raise Unparsed(_error(PARSE_ERROR, known, "The line is not valid JSON.")) from error
    whole = _without_surrogates(data)
    try:
        return jsonrpc_message_adapter.validate_python(whole, by_name=False)
    except ValidationError as error:
        raise Unparsed(_invalid(whole)) from error


def _invalid(whole: object) -> JSONRPCError | None:
    message = cast("dict[str, object]", whole) if isinstance(whole, dict) else {}
    if "method" in message and "id" not in message:
        return None
    request_id = message.get("id")
    known = request_id if isinstance(request_id, int | str) and not isinstance(request_id, bool) else None
    return _error(
        INVALID_REQUEST,
        known,
        "This is not a JSON-RPC 2.0 request: it needs jsonrpc, id, method and params (an object).",
    )


def _error(code: int, request_id: Id, words: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=words))


def _without_surrogates(data: Any) -> Any:
    match data:
        case str():
            return _SURROGATE.sub("\ufffd", data)
        case list():
            return [_without_surrogates(each) for each in cast("list[Any]", data)]
        case dict():
            fields = cast("dict[str, Any]", data)
            return {_without_surrogates(name): _without_surrogates(value) for name, value in fields.items()}
        case _:
            return data


class RepairingStream:
    """The SDK's read stream with every unparsed line repaired or answered through `write`. Has the attribute
    `last_context`, which the SDK looks for on a read stream."""

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write

    @property
    def last_context(self) -> Context | None:
        return self._read.last_context

    async def receive(self) -> SessionMessage:
        while True:
            item: SessionMessage | Exception = await self._read.receive()
            if not isinstance(item, Exception):
                return item
            try:
                return SessionMessage(repair(item))
            except Unparsed as unparsed:
                logger.warning("%s", unparsed)
                if unparsed.answer:
                    await self._write.send(SessionMessage(unparsed.answer))

    async def aclose(self) -> None:
        await self._read.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
