"""Translates the exceptions of the SDK and httpx into ours. They are caught nowhere else.

The meaning of Letta's answers was observed on a 0.16.8 server. Importing this module imports `letta_client`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import cast

import httpx
import letta_client

from letta_conversations_mcp.conversations.compaction import TOO_LITTLE
from letta_conversations_mcp.core.errors import (
    AwaitingApproval,
    Busy,
    ConversationError,
    Refused,
    ServerFault,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from letta_conversations_mcp.core.message_json import mapping_field, text_field
from letta_conversations_mcp.core.quoting import said

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
"""Exceptions that httpx raises before a request has left this machine."""

REFUSED_COMPACTION = ("Summarization failed", "No in-context messages")
"""Beginnings of Letta's two refusals to compact."""

_BAD_NAME = "contains invalid characters"
"""In the answer to a name for an agent that the server does not take: HTTP 500, and nothing is created (0.16.8)."""

_UNKNOWN_MODEL = re.compile(r"NOT_FOUND: Handle (\S+) not found")
_RUN = re.compile(r"run_id=(run-[0-9a-f-]+)")
_VALIDATION_MESSAGE = re.compile(r"'msg': ([\"'])(.*?)\1")


class Asking:
    """Translates errors. Holds the server's address, and whether there is a key, for the texts."""

    def __init__(self, base_url: str, *, key_given: bool) -> None:
        self.base_url = base_url
        self.key_given = key_given

    @contextmanager
    def to(
        self, what: str, *, after: str, missing: ConversationError | None = None, conversation_id: str = ""
    ) -> Generator[None]:
        """Translate the exceptions raised inside, of a request to `what` ("list the messages").

        Args:
            after: advice if it is uncertain whether the request was carried out.
            missing: the error for a 404.
            conversation_id: the conversation for the error for a 409.
        """
        try:
            yield
        except letta_client.APIStatusError as error:
            raise self.translate_status(error, what, after, missing, conversation_id) from error
        except letta_client.APITimeoutError as error:
            if was_never_sent(error):
                raise Unreachable.nothing_answers(self.base_url) from error
            raise TimedOut(what, waited_seconds(error), after) from error
        except letta_client.APIConnectionError as error:
            if was_never_sent(error):
                raise Unreachable.nothing_answers(self.base_url) from error
            raise ServerFault(what, 0, "the connection broke", after) from error

    def translate_status(
        self,
        error: letta_client.APIStatusError,
        what: str,
        after: str,
        missing: ConversationError | None,
        conversation_id: str,
    ) -> ConversationError:
        """The error for an HTTP status and its body."""
        status = error.status_code
        detail = _detail(error.body)
        match status:
            case _ if _BAD_NAME in detail:
                return Refused(what, said(detail.removeprefix("Export failed: ")), "Nothing was done; choose another.")
            case 401:
                return Unauthorized(self.base_url, key_given=self.key_given)
            case 403:
                return Refused(what, said(detail) or "this key may not do that", "Another key or agent is needed.")
            case 404 if _is_unrouted(error.body):
                return Unreachable.no_letta_server(self.base_url)
            case 404 if missing is not None and not _UNKNOWN_MODEL.match(detail):
                return missing
            case 402:
                return Refused(what, said(detail) or "no credits are left", "A person has to look after the account.")
            case 400 if any(words in detail for words in REFUSED_COMPACTION):
                return Refused(
                    what,
                    TOO_LITTLE,
                    "Nothing was changed. After more messages it will work.",
                )
            case 404 if unknown_model := _UNKNOWN_MODEL.match(detail):
                return Refused(
                    what,
                    f"the server has no model {unknown_model[1]}",
                    "list_models shows those there are. If the call did not name it, the conversation or the agent has "
                    "this model: update(model=…) changes a conversation's.",
                )
            case 400 | 404:
                return Refused(what, said(detail), "Correct the arguments and call again.")
            case 409 if "waiting for approval" in detail:
                return AwaitingApproval(conversation_id)
            case 409 if "being processed" in detail:
                return Busy(conversation_id, _busy_run(detail))
            case 409:
                return Refused(what, said(detail), "The same call may succeed in a moment.")
            case 422 if missing is not None and "'path'" in detail:
                # An id that is not a version 4 UUID: no such object can exist.
                return missing
            case 422 | 413 | 414:
                return Refused(what, said(_validation_words(detail)), "Correct the arguments and call again.")
            case 429:
                wait = error.response.headers.get("retry-after", "")
                return TooManyRequests(what, float(wait) if wait.isdecimal() else None)
            case _ if 200 <= status < 400:
                return Unreachable.no_letta_server(self.base_url)
            case _:
                return ServerFault(what, status, said(detail), after)


def was_never_sent(error: letta_client.APIConnectionError) -> bool:
    return isinstance(error.__cause__, NEVER_SENT)


def _detail(body: object) -> str:
    """The text in an error's body: under `detail`, or under `error.message` for a model's failure."""
    if isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        inner = mapping_field(fields, "error") or fields
        return text_field(inner, "detail") or text_field(inner, "message") or str(fields.get("detail") or "")
    return body if isinstance(body, str) else ""


def _is_unrouted(body: object) -> bool:
    """True if a 404 comes from a server without this route, and not from Letta lacking the object."""
    return not isinstance(body, Mapping) or _detail(cast("object", body)) in ("", "Not Found")


def _busy_run(detail: str) -> str:
    found = _RUN.search(detail)
    return found.group(1) if found else ""


def _validation_words(detail: str) -> str:
    """The messages in a validation error, whose `detail` is the repr of a list of dictionaries."""
    messages = [match.group(2) for match in _VALIDATION_MESSAGE.finditer(detail)]
    return "; ".join(messages) or detail


def waited_seconds(error: letta_client.APIConnectionError) -> float:
    """The timeout that expired, in seconds."""
    timeout = error.request.extensions.get("timeout")
    seconds = cast("Mapping[str, object]", timeout).get("read") if isinstance(timeout, Mapping) else None
    return float(seconds) if isinstance(seconds, int | float) else 0.0
