"""What a client carries from one process to another while a person is asked: honoured, refused, late, replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from mcp import MCPError
from mcp.server.request_state import AESGCMRequestStateCodec
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.http.team import call_tool, post
from tests.operations.service import service
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Hold, Say, ScriptedModel, Use
from tests.rig.servers import http_server
from tests.rig.task_client import task_client_of

SHARED, NEWER = "shared-" * 8, "newer--" * 8
REMEMBER = Use("memory_insert", {"label": "human", "new_string": "Likes tea"})


@dataclass
class Place:
    """A Letta server, and an agent whose tool needs approval."""

    letta: Letta
    agent: str

    @property
    def model(self) -> ScriptedModel:
        return self.letta.model

    @asynccontextmanager
    async def replica(self, *keys: str) -> AsyncGenerator[str]:
        """A server of its own in this process; gives its URL."""
        async with http_server(self._settings(*keys)) as url:
            yield url

    @asynccontextmanager
    async def process(self, *keys: str) -> AsyncGenerator[str]:
        """A server as a process; gives its URL."""
        async with service(self._settings(*keys)) as running:
            yield running.url

    def _settings(self, *keys: str) -> Settings:
        sealed = tuple(SecretStr(each) for each in keys)
        return Settings(base_url=self.letta.base_url, approvals="elicit", request_state_keys=sealed)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of a call that opens a conversation: made anew, it would open another."""
        return {"agent": self.agent, "message": "I like tea"}

    async def asked(self, url: str) -> str:
        """Send a message whose turn stops at a question to the person; gives the state."""
        self.model.enqueue(CallTools((REMEMBER,)))
        answer = (await call_tool(url, "send_message", self.arguments, {})).json()
        assert answer["result"]["resultType"] == "input_required", answer
        return answer["result"]["requestState"]

    async def answer(self, url: str, state: str | None, *, approve: bool = True) -> httpx.Response:
        """The second round, with the person's answer."""
        params: dict[str, Any] = {
            "name": "send_message",
            "arguments": self.arguments,
            "inputResponses": {"approval": {"action": "accept", "content": {"approve": approve}}},
        }
        params |= {"requestState": state} if state else {}
        return await post(url, "tools/call", params, name="send_message")

    async def opened(self) -> list[str]:
        """Every conversation of the agent."""
        listed = await self.letta.request("GET", "/v1/conversations/", params={"agent_id": self.agent})
        return [each["id"] for each in listed]

    async def times_run(self) -> int:
        """How often the tool has run, as the histories show."""
        listed = await self.letta.request("GET", f"/v1/agents/{self.agent}/messages", params={"limit": 1000})
        for each in await self.opened():
            params = {"conversation_id": each, "limit": 1000}
            listed += await self.letta.request("GET", f"/v1/agents/{self.agent}/messages", params=params)
        return len({each["id"] for each in listed if each["message_type"] == "tool_return_message"})


@pytest.fixture
async def place(letta: Letta) -> Place:
    return Place(letta, (await letta.new_agent(needs_approval="memory_insert"))[0])


def reply_of(answer: httpx.Response) -> tuple[str, str]:
    data = answer.json()["result"]["structuredContent"]
    return data["status"], data.get("reply", "")


def refusal_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert (error["code"], error["data"]) == (-32602, {"reason": "invalid_request_state"})
    return error["message"]


def resealed(state: str, key: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The state as the holder of the key would have made it."""
    codec = AESGCMRequestStateCodec([key])
    claims = json.loads(codec.unseal(state))
    change(claims)
    return codec.seal(json.dumps(claims).encode())


async def test_the_answer_may_go_to_another_replica_that_shares_the_key(place: Place) -> None:
    async with place.process(SHARED) as one, place.process(SHARED) as other, place.process() as stranger:
        state = await place.asked(one)
        refused = refusal_of(await place.answer(stranger, state))
        run_by_the_stranger = await place.times_run()
        place.model.enqueue(Say("Noted."))
        taken = await place.answer(other, state)

    assert "--request-state-keys" in refused
    assert "Do not send the message again" in refused
    assert run_by_the_stranger == 0
    assert reply_of(taken) == ("completed", "Noted.")
    assert (await place.times_run(), len(await place.opened())) == (1, 1)


async def test_a_key_is_changed_without_losing_a_question(place: Place) -> None:
    async with (
        place.replica(SHARED) as before,
        place.replica(SHARED, NEWER) as first_step,
        place.replica(NEWER, SHARED) as second_step,
        place.replica(NEWER) as after,
    ):
        old = [await place.asked(before), await place.asked(first_step)]
        new = await place.asked(second_step)
        refusal_of(await place.answer(after, old[1]))
        answers = [
            await place.answer(replica, state)
            for replica, state in ((first_step, old[0]), (second_step, old[1]), (after, new))
        ]

    assert [reply_of(each)[0] for each in answers] == ["completed"] * 3
    assert await place.times_run() == 3


async def test_an_answer_that_comes_too_late_decides_nothing(place: Place) -> None:
    async with place.replica(SHARED) as server:
        state = await place.asked(server)
        late = resealed(state, SHARED, lambda claims: claims.update(exp=claims["iat"] - 1))
        refused = refusal_of(await place.answer(server, late))
        run_by_then = await place.times_run()
        in_time = await place.answer(server, resealed(state, SHARED, lambda claims: claims))

    assert "more than ten minutes old" in refused
    assert run_by_then == 0
    assert reply_of(in_time)[0] == "completed"


async def test_an_answer_without_its_question_is_not_taken_for_a_new_message(place: Place) -> None:
    async with place.replica(SHARED) as server:
        await place.asked(server)
        answer = await place.answer(server, None)

    assert answer.json()["result"]["isError"]
    assert "requestState" in answer.text
    assert len(await place.opened()) == 1
    assert len(place.model.calls) == 1


async def test_an_answer_that_comes_again_neither_sends_nor_decides_again(place: Place) -> None:
    async with place.replica(SHARED) as one, place.replica(SHARED) as other:
        state = await place.asked(one)
        place.model.enqueue(Say("Noted."))
        answers = [await place.answer(each, state) for each in (one, one, other)]
        contrary = await place.answer(other, state, approve=False)

    assert [reply_of(each) for each in (*answers, contrary)] == [("completed", "Noted.")] * 4
    assert (await place.times_run(), len(await place.opened()), len(place.model.calls)) == (1, 1, 2)


@pytest.mark.fake_only
async def test_an_answer_that_overtakes_itself_on_another_replica_is_taken_once(place: Place) -> None:
    async with place.replica(SHARED) as one, place.replica(SHARED) as other:
        state = await place.asked(one)
        place.model.enqueue(Say("Noted."))
        gate = anyio.Event()
        path = f"/v1/conversations/{(await place.opened())[0]}/messages"
        place.letta.fake.stall("POST", path, gate)
        requests = place.letta.fake.requests
        requests.clear()
        slow = asyncio.create_task(place.answer(one, state))
        await requests.until(lambda each: (each.method, each.path) == ("POST", path))
        quick = await place.answer(other, state)
        gate.set()
        answers = [quick, await slow]

    assert [reply_of(each) for each in answers] == [("completed", "Noted.")] * 2
    assert (await place.times_run(), len(place.model.calls)) == (1, 2)


async def test_an_old_yes_is_not_for_a_later_call_that_looks_the_same(place: Place) -> None:
    same = Use(REMEMBER.name, REMEMBER.arguments, call_id="call_0")
    async with place.replica(SHARED) as server:
        place.model.enqueue(CallTools((same,)))
        first = (await call_tool(server, "send_message", place.arguments, {})).json()["result"]
        place.model.enqueue(CallTools((same,)))
        asked_again = (await place.answer(server, first["requestState"])).json()["result"]
        replayed = (await place.answer(server, first["requestState"])).json()["result"]

    assert [each["resultType"] for each in (asked_again, replayed)] == ["input_required"] * 2
    assert await place.times_run() == 1


async def test_a_task_is_known_to_replicas_that_share_a_key_and_to_no_other(place: Place) -> None:
    held = Hold(Say("at last"))
    place.model.enqueue(held)
    async with (
        place.replica(SHARED) as one,
        place.replica(NEWER, SHARED) as other,
        place.replica(NEWER) as stranger,
        task_client_of(f"{one}/mcp") as client,
        task_client_of(f"{other}/mcp") as replica,
        task_client_of(f"{stranger}/mcp") as elsewhere,
    ):
        task_id = await client.task("send_message", agent=place.agent, message="think")
        working = await replica.get(task_id)
        with pytest.raises(MCPError, match="no such task on this server"):
            await elsewhere.get(task_id)
        held.gate.set()
        ended = await replica.end(task_id)

    assert working["status"] == "working"
    assert ended["result"]["structuredContent"]["reply"] == "at last"
