"""A run of the fake Letta server: its status as /v1/runs shows it, and the events of its stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
from starlette.responses import Response, StreamingResponse

Json = dict[str, Any]
ACTIVE = ("created", "running")


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid4()}"


def zulu(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None


@dataclass(eq=False)
class Run:
    """A run and the events of its stream, which any number of readers may follow."""

    agent_id: str
    conversation_id: str | None
    created: datetime
    background: bool = False
    run_type: str = "send_conversation_message"
    id: str = field(default_factory=lambda: new_id("run"))
    status: str = "created"
    stop_reason: str | None = None
    completed: datetime | None = None
    error: Json | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: list[Json] = field(default_factory=list[Json])
    events: list[str] = field(default_factory=list[str])
    lost: int = 0
    """How many of the first events are kept no more."""
    ended: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    def emit(self, data: Json | str, event: str = "") -> None:
        if isinstance(data, dict):
            if self.background and "seq_id" in data:
                data = {**data, "seq_id": self.lost + len(self.events) + 1}
            data = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        self.events.append(f"event: {event}\ndata: {data}\n\n" if event else f"data: {data}\n\n")
        self._wake()

    def add_step(self, model: str, asked: int, answered: int) -> int:
        """Note what a call of the model took; gives how many tokens the context has then."""
        self.prompt_tokens += asked
        self.completion_tokens += answered
        tokens = {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
        self.steps.append(
            {"id": new_id("step"), "run_id": self.id, "model_handle": model, "context_window_limit": 30000, **tokens}
        )
        return asked + answered

    def end(self) -> None:
        self.ended = True
        self._wake()

    def finish(self, status: str, stop_reason: str, completed: datetime) -> None:
        """Set the outcome, unless the run was cancelled before."""
        if self.active:
            self.status, self.stop_reason, self.completed = status, stop_reason, completed

    def lose_events(self) -> None:
        """What the server kept of the stream so far is gone."""
        self.lost += len(self.events)
        self.events.clear()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def to_json(self, *, in_list: bool = False) -> Json:
        metadata: Json = {"run_type": self.run_type}
        if self.error:
            metadata["error"] = self.error
        took = self.completed - self.created if self.completed and in_list else None
        return {
            "id": self.id,
            "status": self.status,
            "created_at": zulu(self.created),
            # Without a zone, unlike created_at.
            "completed_at": self.completed.replace(tzinfo=None).isoformat() if self.completed else None,
            "agent_id": self.agent_id,
            "conversation_id": self.conversation_id,
            "base_template_id": None,
            "background": self.background,
            "metadata": metadata,
            "request_config": {
                "use_assistant_message": True,
                "assistant_message_tool_name": "send_message",
                "assistant_message_tool_kwarg": "message",
                "include_return_message_types": None,
            },
            "stop_reason": self.stop_reason,
            "callback_url": None,
            "callback_sent_at": None,
            "callback_status_code": None,
            "callback_error": None,
            "ttft_ns": None,
            "total_duration_ns": took // timedelta(microseconds=1) * 1000 if took else None,
        }


async def stream(run: Run, *, stored: bool = False, after: int = 0) -> Response:
    """The run's events; the answer starts with the first of them, as the server's does."""
    coming = events(run, stored=stored or run.background, after=after)
    first = await anext(coming, "")

    async def body() -> AsyncIterator[str]:
        yield first
        async for event in coming:
            yield event

    return StreamingResponse(body(), media_type="text/event-stream")


async def events(run: Run, *, stored: bool, after: int) -> AsyncIterator[str]:
    """The events from number `after` on, and those to come. Only background runs are stored: others are waited for in
    vain."""
    if stored and not run.background:
        await anyio.sleep_forever()
    while True:
        while after < run.lost + len(run.events):
            after = max(after, run.lost) + 1
            yield run.events[after - run.lost - 1]
        if run.ended:
            return
        await run.changed.wait()
