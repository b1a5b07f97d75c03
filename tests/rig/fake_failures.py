"""How a turn of the fake Letta server fails: the error in a stream and in a JSON answer, with the texts of 0.16.8."""

from __future__ import annotations

from uuid import uuid4

from tests.rig.fake_run import Json
from tests.rig.model import Refuse

NO_LLM = "An error occurred with the LLM request."
# Status of the provider: status of a JSON answer, its type, the type in a stream, message, start of the detail.
LLM_FAILURES = {
    400: (400, "llm_bad_request", "llm_error", NO_LLM, "INVALID_ARGUMENT: Bad request to OpenAI-compatible endpoint"),
    401: (
        401,
        "llm_authentication",
        "llm_authentication",
        "Authentication failed with the LLM model provider.",
        "UNAUTHENTICATED: Authentication failed with OpenAI",
    ),
    403: (500, "llm_error", "llm_error", NO_LLM, "PERMISSION_DENIED: Permission denied by OpenAI"),
    429: (
        429,
        "llm_rate_limit",
        "llm_rate_limit",
        "Rate limit exceeded for LLM model provider. Please wait before making another request.",
        "RATE_LIMIT_EXCEEDED: Rate limited by OpenAI",
    ),
}
OTHER_LLM_FAILURE = (500, "llm_error", "llm_error", NO_LLM, "INTERNAL_SERVER_ERROR: OpenAI API error")
PROVIDER_CODES = {400: "invalid_request_error", 401: "invalid_api_key", 429: "rate_limit_exceeded"}


class TurnFailed(Exception):
    """The turn ends with an error: `status` and `body` in a JSON answer, the rest in a stream."""

    def __init__(
        self, status: int, body: Json, *, stop_reason: str, error_type: str, message: str, detail: str
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.body = body
        self.stop_reason = stop_reason
        self.error: Json = {"error_type": error_type, "message": message, "detail": detail}


def refused_input(status: int, detail: str, message: str | None = None) -> TurnFailed:
    message = message or "An unknown error occurred with the LLM streaming request."
    body: Json = {"detail": detail}
    return TurnFailed(status, body, stop_reason="error", error_type="internal_error", message=message, detail=detail)


def refused_by_model(answer: Refuse) -> TurnFailed:
    status, kind, stream_kind, message, start = LLM_FAILURES.get(answer.status, OTHER_LLM_FAILURE)
    code = PROVIDER_CODES.get(answer.status, "server_error")
    error = {"error": {"message": answer.message, "type": code, "param": None, "code": code}}
    detail = f"{start}: Error code: {answer.status} - {error}"
    # The same failure has another text in a JSON answer when the provider said 400.
    whole = "The request to the LLM model provider was invalid." if kind == "llm_bad_request" else message
    return TurnFailed(
        status,
        {"error": {"type": kind, "message": whole, "detail": detail}},
        stop_reason="llm_api_error",
        error_type=stream_kind,
        message=message,
        detail=detail,
    )


def refused_empty() -> TurnFailed:
    detail = (
        f"INTERNAL_SERVER_ERROR: LLM provider returned empty content in response (ID: chatcmpl-{uuid4().hex}, "
        "model: fake-1, finish_reason: stop)"
    )
    return TurnFailed(
        500,
        {"error": {"type": "llm_error", "message": NO_LLM, "detail": detail}},
        stop_reason="invalid_llm_response",
        error_type="llm_empty_response",
        message="LLM returned an empty response.",
        detail=detail,
    )
