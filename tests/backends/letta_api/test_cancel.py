"""Which runs are stopped: those of this conversation, of these only the named one, and never another's."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import httpx
import pytest

from letta_conversations_mcp.backends.letta_api.cancel import cancel_runs
from letta_conversations_mcp.backends.letta_api.client import Client
from letta_conversations_mcp.core.backend import Backend
from letta_conversations_mcp.core.errors import ConversationError, NotFound, Refused, ServerFault
from letta_conversations_mcp.core.model import ConversationRef, Run, ToolCall
from letta_conversations_mcp.settings import BackendSettings

HERE = ConversationRef(conversation_id="conv-1", agent_id="agent-1")
DEFAULT = ConversationRef(conversation_id="default", agent_id="agent-1")


class Letta:
    """A server that lists these runs, and to a cancel says `stopped` of those that it stopped."""

    def __init__(self, *runs: Run, waiting: int = 0, stops: Callable[[str], bool] = lambda _: True) -> None:
        self._runs, self._waiting, self._stops = runs, waiting, stops
        self.cancelled: list[list[str]] = []

    async def list_runs(self, ref: ConversationRef, *, limit: int) -> Sequence[Run]:
        return self._runs[:limit]

    async def get_run(self, ref: ConversationRef, run_id: str) -> Run:
        if run_id == "run-ended-long-ago":
            return Run(id=run_id, status="completed")
        found = [each for each in self._runs if each.id == run_id]
        if not found:
            raise NotFound.run(run_id)
        return found[0]

    async def list_approvals(self, ref: ConversationRef) -> Sequence[ToolCall]:
        assert ref == DEFAULT
        return [ToolCall(id=f"call-{number}", name="Bash") for number in range(self._waiting)]

    def answer(self, request: httpx.Request) -> httpx.Response:
        ids = json.loads(request.content)["run_ids"]
        self.cancelled.append(ids)
        return httpx.Response(200, json={each: "cancelled" if self._stops(each) else "failed" for each in ids})

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        client = Client(BackendSettings(base_url="http://letta.test"))
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as http:
            client.once = client.once.with_options(http_client=http)
            yield client

    async def cancel(self, ref: ConversationRef, run_id: str = "") -> Sequence[str]:
        async with self.client() as client:
            return await cancel_runs(cast("Backend", self), client, ref, run_id)


ENDED, RUNNING, CREATED = (Run(id=f"run-{each}", status=each) for each in ("completed", "running", "created"))
OTHER = Run(id="run-other", status="running")


@pytest.mark.parametrize(
    ("ref", "runs", "run_id", "stopped"),
    [
        (HERE, [ENDED, RUNNING, CREATED], "", ["run-running", "run-created"]),
        (HERE, [RUNNING, OTHER], "run-other", ["run-other"]),
        # Listed under `default`, a created run may be another conversation's.
        (DEFAULT, [ENDED, RUNNING, CREATED], "", ["run-running"]),
        (DEFAULT, [CREATED], "", []),
        (DEFAULT, [CREATED, RUNNING], "run-created", []),
        (HERE, [ENDED], "", []),
        (HERE, [], "", []),
        # It has ended, and another runs.
        (HERE, [ENDED, RUNNING], "run-completed", []),
        (HERE, [RUNNING], "run-ended-long-ago", []),
    ],
)
async def test_only_active_runs_of_the_conversation_are_stopped(
    ref: ConversationRef, runs: list[Run], run_id: str, stopped: list[str]
) -> None:
    letta = Letta(*runs)

    assert list(await letta.cancel(ref, run_id)) == stopped
    assert letta.cancelled == ([stopped] if stopped else [])


async def test_a_run_that_is_not_there_is_said_to_be_missing() -> None:
    letta = Letta(RUNNING)

    with pytest.raises(NotFound, match="run-9"):
        await letta.cancel(HERE, "run-9")

    assert letta.cancelled == []


async def test_only_what_letta_has_stopped_is_said_to_be() -> None:
    letta = Letta(RUNNING, OTHER, stops=lambda run_id: run_id == "run-other")

    assert list(await letta.cancel(HERE)) == ["run-other"]
    with pytest.raises(ServerFault, match="The turn goes on"):
        await letta.cancel(HERE, "run-running")


@pytest.mark.parametrize("ref", [HERE, DEFAULT])
async def test_nothing_is_stopped_while_a_call_waits_in_the_default_conversation(ref: ConversationRef) -> None:
    letta = Letta(RUNNING, waiting=2)

    with pytest.raises(Refused, match=r"deny the 2 tool call.*Nothing was stopped"):
        await letta.cancel(ref)

    assert letta.cancelled == []
    with pytest.raises(ConversationError):
        await letta.cancel(ref, "run-running")
