"""The scripted model as a server that speaks the OpenAI chat protocol, for a real Letta server to ask.

Owns the translation between `ScriptedModel` and the protocol: chat completions (streamed or whole), the list of models,
and embeddings (a deterministic bag of words). What to answer is the model's matter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.rig.loopback import loopback_socket, serve_loopback
from tests.rig.model import CallTools, Hold, ModelCall, Refuse, Say, ScriptedModel

MODEL_NAMES = ("fake-1", "fake-2")
SEEING_MODEL_NAME = "fake-seeing"
"""A model that takes images; only the list in LM Studio's own form says which do."""
EMBEDDING_DIMENSIONS = 1536  # those of text-embedding-3-small, the one of the tests
REFUSAL_CODES = {400: "invalid_request_error", 401: "invalid_api_key", 429: "rate_limit_exceeded"}

Json = dict[str, Any]


def openai_app(model: ScriptedModel, instead: list[Response] | None = None) -> Starlette:
    """The ASGI app whose answers come from `model`; those of `instead` come first, and are no answers at all."""

    async def chat(request: Request) -> Response:
        body: Json = await request.json()
        if instead:
            return instead.pop(0)
        answer = model.take(model_call(body))
        while isinstance(answer, Hold):
            if not await opened(answer.gate, request):
                return Response(status_code=499)  # nobody reads it
            answer = answer.answer
        if isinstance(answer, Refuse):
            return refusal(answer)
        if body.get("stream"):
            return StreamingResponse(events(body, answer), media_type="text/event-stream")
        return JSONResponse(completion(body, answer))

    async def models(_: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in MODEL_NAMES]
        return JSONResponse({"object": "list", "data": data})

    async def lm_studio_models(_: Request) -> Response:
        data = [{"id": name, "object": "model", "type": "llm", "state": "loaded"} for name in MODEL_NAMES]
        data.append({"id": SEEING_MODEL_NAME, "object": "model", "type": "vlm", "state": "loaded"})
        return JSONResponse({"object": "list", "data": data})

    async def embeddings(request: Request) -> Response:
        return JSONResponse(embedding_list(await request.json()))

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/api/v0/models", lm_studio_models),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
        ]
    )


async def opened(gate: anyio.Event, request: Request) -> bool:
    """Wait for the gate, but no longer than the asker does."""

    async def until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_gone)
        await gate.wait()
        tasks.cancel_scope.cancel()
    return gate.is_set()


def model_call(body: Mapping[str, Any]) -> ModelCall:
    messages = tuple((str(message["role"]), message_text(message.get("content"))) for message in body["messages"])
    user_texts = [text for role, text in messages if role == "user"]
    images = tuple(
        str(part["image_url"]["url"])
        for message in body["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    )
    text = user_texts[-1] if user_texts else ""
    return ModelCall(text=text, messages=messages, model=str(body["model"]), images=images)


def message_text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """The text of a message, without images and without the JSON that older agent types put around the user's words."""
    text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())
    if text.startswith("{"):
        try:
            packed = json.loads(text)
        except ValueError:
            return text
        if packed.get("type") == "user_message":
            return str(packed["message"])
    return text


def refusal(answer: Refuse) -> Response:
    code = REFUSAL_CODES.get(answer.status, "server_error")
    error = {"message": answer.message, "type": code, "param": None, "code": code}
    # The client in Letta would repeat a 429 or 5xx twice by itself; the header forbids it: one Refuse fails one step.
    return JSONResponse({"error": error}, status_code=answer.status, headers={"x-should-retry": "false"})


def completion(body: Mapping[str, Any], answer: Say | CallTools) -> Json:
    message: Json = {"role": "assistant", "content": answer.text or None}
    if isinstance(answer, Say) and answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if calls := tool_calls(answer):
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(answer)}
    return {**head(body, "chat.completion"), "choices": [choice], "usage": usage(body, answer)}


async def events(body: Mapping[str, Any], answer: Say | CallTools) -> AsyncIterator[str]:
    chunk = head(body, "chat.completion.chunk")
    for delta in deltas(answer):
        yield event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason(answer)}]})
    options: Json = body.get("stream_options") or {}
    if options.get("include_usage"):
        yield event({**chunk, "choices": [], "usage": usage(body, answer)})
    yield "data: [DONE]\n\n"


def event(data: Json) -> str:
    return f"data: {json.dumps(data)}\n\n"


def deltas(answer: Say | CallTools) -> Iterator[Json]:
    """The answer in pieces: reasoning, text, then each tool call by name first and arguments after it."""
    yield {"role": "assistant", "content": ""}
    if isinstance(answer, Say):
        for piece in words(answer.reasoning):
            yield {"reasoning_content": piece}
    for piece in words(answer.text):
        yield {"content": piece}
    for index, call in enumerate(tool_calls(answer)):
        arguments = call["function"]["arguments"]
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        middle = len(arguments) // 2
        for piece in (arguments[:middle], arguments[middle:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def tool_calls(answer: Say | CallTools) -> list[Json]:
    if isinstance(answer, Say):
        return []
    return [
        {
            "id": use.call_id or f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {
                "name": use.name,
                "arguments": use.arguments if isinstance(use.arguments, str) else json.dumps(use.arguments),
            },
        }
        for use in answer.uses
    ]


def finish_reason(answer: Say | CallTools) -> str:
    if isinstance(answer, CallTools):
        return "tool_calls"
    return "length" if answer.cut else "stop"


def head(body: Mapping[str, Any], kind: str) -> Json:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": body["model"]}


def usage(body: Mapping[str, Any], answer: Say | CallTools) -> Json:
    """Token counts that look real: a token is four characters."""
    reasoning = len(answer.reasoning) // 4 if isinstance(answer, Say) else 0
    asked = sum(len(message_text(message.get("content"))) for message in body["messages"]) // 4
    answered = reasoning + len(answer.text) // 4 + 1
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def embedding_list(body: Mapping[str, Any]) -> Json:
    given = body["input"]
    # One text, one list of token numbers, or a list of either.
    inputs: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    data: list[Json] = []
    for index, item in enumerate(inputs):
        vector: Any = embedding(str(item), int(body.get("dimensions") or EMBEDDING_DIMENSIONS))
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def embedding(text: str, dimensions: int) -> list[float]:
    """A bag of words of length 1: texts that share words are near each other."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        vector[int.from_bytes(digest[:4]) % dimensions] += 1.0
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector]


@asynccontextmanager
async def serve_model(
    model: ScriptedModel, port: int = 0, instead: list[Response] | None = None
) -> AsyncGenerator[str]:
    """Serve `model` on loopback in the running event loop, on a free port unless one is given; gives the base URL.
    `instead` as for `openai_app`."""
    async with serve_loopback(openai_app(model, instead), loopback_socket(port), lifespan="off") as url:
        yield f"{url}/v1"
