"""Two servers behind a plain load balancer: a client of either era does not notice that there are two."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import EmptyResult, SubscribeRequest, SubscribeRequestParams
from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.operations.balancer import Balancer, balanced
from tests.operations.service import service
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.programs import installed
from tests.rig.real_letta import redis_running
from tests.rig.servers import Answer, Caller, Era, http_server, in_own_task

URI = "letta://conversations/conv-123e4567-e89b-42d3-a456-426614174000"

ERAS: tuple[Era, ...] = ("legacy", "modern")


@pytest.fixture(scope="module")
async def behind(letta_server: Letta, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[str, Balancer]]:
    """The address of a balancer with two servers behind it, which share a Redis."""
    program = installed("redis-server")
    async with in_own_task(redis_running(program, tmp_path_factory.mktemp("redis"))) as port:
        url = SecretStr(f"redis://127.0.0.1:{port}/0")
        settings = Settings(base_url=letta_server.base_url, stateless=True, redis_url=url)
        async with behind_a_balancer(settings) as address:
            yield address


@asynccontextmanager
async def behind_a_balancer(settings: Settings) -> AsyncGenerator[tuple[str, Balancer]]:
    async with (
        in_own_task(service(settings)) as one,
        in_own_task(service(settings)) as other,
        balanced([one.url, other.url]) as address,
    ):
        yield address


@pytest.mark.parametrize("era", ERAS)
async def test_a_turn_that_was_started_on_one_is_awaited_on_the_other(
    era: Era, behind: tuple[str, Balancer], letta: Letta
) -> None:
    url, balancer = behind
    agent_id, _ = await letta.new_agent()
    held = Hold(Say("From afar."))
    letta.model.enqueue(held)
    async with Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto") as client:
        caller = Caller(client)
        await client.list_tools()
        balancer.served.clear()
        sent = await caller.ok("send_message", agent=agent_id, message="think", wait_seconds=0.1)
        held.gate.set()
        replied = await caller.ok("wait_for_reply", conversation_id=sent.data["conversation_id"])
        started_on, awaited_on = balancer.served

    assert sent.data["status"] == "running"
    assert replied.data["reply"] == "From afar."
    assert started_on != awaited_on


@pytest.mark.parametrize("era", ERAS)
async def test_every_call_of_a_client_may_go_to_another_server(
    era: Era, behind: tuple[str, Balancer], letta: Letta
) -> None:
    url, balancer = behind
    agent_id, _ = await letta.new_agent()
    async with Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto") as client:
        caller = Caller(client)
        opened = await caller.ok("send_message", agent=agent_id, message="one")
        place = {"conversation_id": opened.data["conversation_id"]}
        replies = [(await caller.ok("send_message", **place, message=text)).data["reply"] for text in ("two", "three")]
        listed = await caller.ok("list_messages", **place)

    assert replies == ["echo: two", "echo: three"]
    assert [each["text"] for each in listed.data["messages"] if each["kind"] == "user"] == ["one", "two", "three"]
    assert len(set(balancer.served)) == 2


@pytest.mark.parametrize("era", ["modern"])
async def test_a_call_that_is_given_up_and_made_again_on_the_other_sends_one_message(
    era: Era, behind: tuple[str, Balancer], letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    call = {"conversation_id": await letta.new_conversation(agent_id), "message": "Think hard"}
    held = Hold(Say("At last."))
    letta.model.enqueue(held)
    answers: list[Answer] = []

    async def call_again() -> None:
        answers.append(await other.ok("send_message", **call))

    async with AsyncExitStack() as clients:
        one, other = [
            Caller(
                await clients.enter_async_context(Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto"))
            )
            for url in behind[1].urls
        ]
        async with anyio.create_task_group() as given_up:
            given_up.start_soon(partial(one.ok, "send_message", **call))
            await letta.model.asked()
            given_up.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_again)
            await other.until_reported("0 s")
            held.gate.set()

    [again] = answers
    assert again.data["reply"] == "At last."
    assert "not sent again" in again.data["note"]
    assert len(letta.model.calls) == 1
    assert await letta.stored_texts(agent_id, call["conversation_id"]) == ["Think hard"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancel_at_one_reaches_the_turns_of_the_other(
    era: Era, behind: tuple[str, Balancer], letta: Letta
) -> None:
    agent_id, _ = await letta.new_agent()
    place = {"conversation_id": await letta.new_conversation(agent_id)}
    held = Hold(Say("Never."))
    letta.model.enqueue(held, to="Think hard")
    answers: dict[str, Answer] = {}
    cancelled = Answer("", {}, is_error=True)

    async def send(text: str) -> None:
        answers[text] = await one.ok("send_message", **place, message=text)

    async with AsyncExitStack() as clients:
        one, other = [
            Caller(
                await clients.enter_async_context(Client(f"{url}/mcp", mode="legacy" if era == "legacy" else "auto"))
            )
            for url in behind[1].urls
        ]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, "Think hard")
            await letta.model.asked()
            tasks.start_soon(send, "And then?")
            await one.until_reported("waiting for the turn before it")
            cancelled = await other.ok("cancel", **place)
            held.gate.set()

    assert (cancelled.data["status"], cancelled.data["withdrawn"]) == ("cancelled", 1)
    assert "not reached" not in cancelled.text
    assert {each.data["status"] for each in answers.values()} == {"cancelled"}
    assert len(letta.model.calls) == 1


async def test_an_older_client_is_not_promised_to_be_told_of_changes(behind: tuple[str, Balancer]) -> None:
    url, _ = behind
    async with Client(f"{url}/mcp", mode="legacy") as client:
        resources = client.server_capabilities.resources
        wanted = SubscribeRequest(params=SubscribeRequestParams(uri=URI))
        with pytest.raises(MCPError, match="keeps no sessions"):
            await client.session.send_request(wanted, EmptyResult)

    assert resources
    assert not resources.subscribe
    assert not resources.list_changed


async def test_sessions_are_kept_by_replicas_when_each_goes_to_the_same_one(letta: Letta) -> None:
    settings = Settings(base_url=letta.base_url)
    agent_id, _ = await letta.new_agent()
    uri = f"letta://conversations/{await letta.new_conversation(agent_id)}"
    async with (
        http_server(settings) as one,
        http_server(settings) as other,
        balanced([one, other], sticky=True) as (url, balancer),
        Client(f"{url}/mcp", mode="legacy") as client,
        Client(f"{url}/mcp", mode="legacy") as neighbour,
    ):
        for each in (client, neighbour):
            await each.session.send_request(SubscribeRequest(params=SubscribeRequestParams(uri=uri)), EmptyResult)
            assert (await Caller(each).ok("list_models")).data["models"]

    assert set(balancer.served) == {one, other}


async def test_without_that_another_replica_does_not_know_the_session(letta: Letta) -> None:
    settings = Settings(base_url=letta.base_url)
    async with http_server(settings) as one, http_server(settings) as other, balanced([one, other]) as (url, _):
        with pytest.raises(BaseExceptionGroup) as raised:
            async with Client(f"{url}/mcp", mode="legacy") as client:
                await client.list_tools()

    assert raised.group_contains(MCPError, match="Session not found")
