"""What becomes of the SDK's errors: which say that nothing was done, and which leave it open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import letta_client
import pytest

from letta_conversations_mcp.backends.letta_api.sdk_errors import Asking
from letta_conversations_mcp.backends.letta_api.stream import KeepsNoStreams, open_response
from letta_conversations_mcp.conversations.compaction import TOO_LITTLE
from letta_conversations_mcp.core.backend import StreamLost
from letta_conversations_mcp.core.errors import (
    AwaitingApproval,
    Busy,
    ConversationError,
    NotFound,
    Refused,
    ServerFault,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from letta_conversations_mcp.core.model import ConversationRef

PLACE = "conv-00000000-0000-4000-8000-000000000001"
HERE = ConversationRef(conversation_id=PLACE, agent_id="agent-1")
RUN = "run-00000000-0000-4000-8000-000000000009"
REQUEST = httpx.Request("POST", "http://letta.test/x", extensions={"timeout": {"read": 7, "connect": 1}})
AFTER = "It may have been done."
MISSING = NotFound.conversation(PLACE)
VALIDATION = "[{'type': 'x', 'loc': ('path', 'id'), 'msg': \"it's no id\"}, {'msg': 'too long'}]"
UNKNOWN_MODEL = "NOT_FOUND: Handle openai/none not found"


def translated(error: Exception, *, missing: ConversationError | None = MISSING) -> ConversationError:
    with (
        pytest.raises(ConversationError) as raised,
        Asking("http://letta.test", key_given=True).to("do it", after=AFTER, missing=missing, conversation_id=PLACE),
    ):
        raise error
    return raised.value


def answered(status: int, body: object, headers: dict[str, str] | None = None) -> letta_client.APIStatusError:
    response = httpx.Response(status, headers=headers, request=REQUEST)
    return letta_client.APIStatusError("no", response=response, body=body)


@pytest.mark.parametrize(
    ("status", "body", "kind", "facts"),
    [
        (400, {"detail": "no such thing"}, Refused, {"reason": '"no such thing"'}),
        (400, {"error": {"message": "the model's words"}}, Refused, {"reason": '"the model\'s words"'}),
        (400, {"detail": "Summarization failed: x"}, Refused, {"reason": TOO_LITTLE}),
        (400, ["no mapping"], Refused, {"reason": ""}),
        (401, {"detail": "who?"}, Unauthorized, {}),
        (402, {"detail": ""}, Refused, {"reason": "no credits are left"}),
        (403, {"detail": "not yours"}, Refused, {"reason": '"not yours"'}),
        (403, {}, Refused, {"reason": "this key may not do that"}),
        (404, {"detail": "Conversation not found"}, NotFound, {"identifier": PLACE}),
        (404, {"detail": UNKNOWN_MODEL}, Refused, {"reason": "the server has no model openai/none"}),
        (404, {"detail": "Not Found"}, Unreachable, {}),
        (404, "<html>", Unreachable, {}),
        (409, {"detail": "the agent is waiting for approval"}, AwaitingApproval, {"conversation_id": PLACE}),
        (409, {"detail": f"is being processed (run_id={RUN})"}, Busy, {"conversation_id": PLACE, "run_id": RUN}),
        (409, {"detail": "is being processed"}, Busy, {"conversation_id": PLACE, "run_id": ""}),
        (409, {"detail": "something else"}, Refused, {"reason": '"something else"'}),
        (413, "too big", Refused, {"reason": '"too big"'}),
        (414, "too long", Refused, {"reason": '"too long"'}),
        (422, {"detail": VALIDATION}, NotFound, {"identifier": PLACE}),
        (
            422,
            {"detail": "[{'loc': ('body',), 'msg': 'too long'}, {'msg': 'x'}]"},
            Refused,
            {"reason": '"too long; x"'},
        ),
        (422, {"detail": ["a list"]}, Refused, {"reason": "\"['a list']\""}),
        (200, "<html>", Unreachable, {}),
        (302, "", Unreachable, {}),
        (500, {"detail": "it broke"}, ServerFault, {"status": 500}),
        (418, {"detail": "a teapot"}, ServerFault, {"status": 418}),
    ],
)
def test_an_answer_becomes_the_error_that_it_means(
    status: int, body: object, kind: type[ConversationError], facts: dict[str, Any]
) -> None:
    error = translated(answered(status, body))

    assert type(error) is kind
    assert facts.items() <= vars(error).items()
    if kind in (Refused, ServerFault):
        assert f"to do it: {facts['reason']}" in str(error) if kind is Refused else "to do it (HTTP" in str(error)
        assert str(error).endswith(".")
    # Only where Letta failed is it unknown what was done.
    assert (AFTER in str(error)) == (kind is ServerFault)


@pytest.mark.parametrize(
    ("status", "detail"), [(404, "Conversation not found"), (422, "[{'loc': ('path', 'id'), 'msg': 'no id'}]")]
)
def test_nothing_is_missing_where_nothing_was_asked_for(status: int, detail: str) -> None:
    assert type(translated(answered(status, {"detail": detail}), missing=None)) is Refused


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("600", 60), ("soon", 2), ("", 2), ("0", 2)])
def test_a_rate_limit_is_waited_for_as_long_as_it_says_within_bounds(header: str, seconds: float) -> None:
    error = translated(answered(429, "", {"retry-after": header}))

    assert isinstance(error, TooManyRequests)
    assert error.try_again_after == seconds


NEVER_SENT = [
    httpx.ConnectError("x"),
    httpx.ConnectTimeout("x"),
    httpx.PoolTimeout("x"),
    httpx.UnsupportedProtocol("x"),
]
MAYBE_SENT = [httpx.ReadError("x"), httpx.WriteError("x"), httpx.RemoteProtocolError("x"), httpx.CloseError("x")]
LATE = [httpx.ReadTimeout("x"), httpx.WriteTimeout("x")]


def of_sdk(cause: Exception) -> letta_client.APIConnectionError:
    """As the SDK raises it."""
    timed_out = isinstance(cause, httpx.TimeoutException)
    error = (
        letta_client.APITimeoutError(request=REQUEST) if timed_out else letta_client.APIConnectionError(request=REQUEST)
    )
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", NEVER_SENT, ids=repr)
def test_only_what_never_left_this_machine_can_be_repeated(cause: Exception) -> None:
    error = translated(of_sdk(cause))

    assert isinstance(error, Unreachable)
    assert error.try_again_after


@pytest.mark.parametrize("cause", [*MAYBE_SENT, *LATE], ids=repr)
def test_of_what_may_have_been_sent_nobody_says_that_nothing_was_done(cause: Exception) -> None:
    error = translated(of_sdk(cause))

    assert type(error) is (TimedOut if cause in LATE else ServerFault)
    assert AFTER in str(error)
    assert error.try_again_after is None
    assert cause not in LATE or "within 7 s" in str(error)


def answering(status: int, **content: Any) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, **content)

    return handler


async def opening(handler: Callable[[httpx.Request], httpx.Response], here: ConversationRef = HERE) -> Exception:
    """What becomes of a message that is handed over with the real SDK to a server that answers like this."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    async with letta_client.AsyncLetta(
        base_url="http://letta.test", api_key="k", max_retries=0, http_client=http
    ) as client:
        request = client.conversations.messages.with_streaming_response.stream(here.conversation_id)
        with pytest.raises((ConversationError, StreamLost, KeepsNoStreams)) as raised:
            async with open_response(request, Asking("http://letta.test", key_given=True), here, 10):
                raise AssertionError("it is open")
    return raised.value


@pytest.mark.parametrize("cause", [*NEVER_SENT, *MAYBE_SENT, *LATE], ids=repr)
async def test_a_message_is_lost_sight_of_unless_it_never_left(cause: Exception) -> None:
    def fails(request: httpx.Request) -> httpx.Response:
        raise cause

    error = await opening(fails)

    assert type(error) is (Unreachable if cause in NEVER_SENT else StreamLost)
    assert getattr(error, "status", 0) == 0


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (500, "it broke", StreamLost),
        (502, "", StreamLost),
        (503, "overloaded", StreamLost),
        (503, "needs Redis", KeepsNoStreams),
        (500, "Redis broke", StreamLost),
        (400, "Run was not created in background mode and so on", KeepsNoStreams),
        (400, "needs Redis", Refused),
        (404, "Conversation not found", NotFound),
        (409, "is being processed", Busy),
        (429, "slower", TooManyRequests),
        (499, "closed", ServerFault),
    ],
)
async def test_a_refused_message_is_certainly_not_taken_and_a_failure_is_not_a_refusal(
    status: int, detail: str, kind: type[Exception]
) -> None:
    error = await opening(answering(status, json={"detail": detail}))

    assert type(error) is kind
    assert not isinstance(error, StreamLost) or error.status == status


async def test_in_the_default_conversation_it_is_the_agent_that_is_missing() -> None:
    default = ConversationRef(conversation_id="default", agent_id="agent-1")

    missing = [await opening(answering(404, json={"detail": "none"}), each) for each in (default, HERE)]

    assert [vars(each)["kind"] for each in missing] == ["agent", "conversation"]
    assert "agent-1" in str(missing[0])


async def test_a_page_is_no_stream() -> None:
    assert type(await opening(answering(200, text="hello"))) is Unreachable
