"""What a caller with a list of agents sees: nothing of anybody else's, in every argument, URI and list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    EmptyResult,
    ResourceTemplateReference,
    SubscribeRequest,
    SubscribeRequestParams,
)

from letta_conversations_mcp.core.errors import NotFound
from letta_conversations_mcp.server.tasks.extension import IDENTIFIER
from tests.http.team import Team, client_of, modern_call
from tests.rig.bounds import HANG_SECONDS
from tests.rig.letta_server import Letta
from tests.rig.loopback import http_client
from tests.rig.model import Hold, Say
from tests.rig.servers import Caller, Era, http_server

NOWHERE_AGENT = "agent-00000000-0000-4000-8000-000000000000"
NOWHERE = "conv-00000000-0000-4000-8000-000000000000"
NO_RUN = "run-00000000-0000-4000-8000-000000000000"
NO_MESSAGE = "message-00000000-0000-4000-8000-000000000000"


@dataclass
class Two:
    """Ann, with an agent of hers, beside what belongs to somebody else."""

    ann: Caller
    url: str
    agent: str
    conversation: str
    other_agent: str
    other_name: str
    other_conversation: str
    other_run: str
    other_message: str


def transcript_of(conversation: str) -> str:
    return f"letta://conversations/{conversation}/transcript"


@asynccontextmanager
async def two(team: Team, letta: Letta, era: Era) -> AsyncGenerator[Two]:
    agent, _ = await letta.new_agent()
    other_agent, other_name = await letta.new_agent()
    conversation = await letta.new_conversation(agent, "of Ann")
    other = await letta.new_conversation(other_agent, "of somebody else")
    await letta.send(conversation, "mine")
    await letta.send(other, "a secret of somebody else")
    runs = await letta.request("GET", "/v1/runs/", params={"conversation_id": other})
    messages = await letta.request(
        "GET", f"/v1/agents/{other_agent}/messages", params={"conversation_id": other, "order": "asc"}
    )
    token = team.add("ann", agents=[agent])
    settings = team.settings(letta.base_url, create_agents=True)
    async with http_server(settings) as url, client_of(url, token, era) as ann:
        yield Two(ann, url, agent, conversation, other_agent, other_name, other, runs[0]["id"], messages[0]["id"])


def calls(own: str, agent: str, conversation: str, run: str, message: str) -> list[tuple[str, dict[str, Any]]]:
    """A call for every argument that can name something; `own` is a conversation that the caller may use."""
    return [
        ("create_conversation", {"agent": agent}),
        ("list_conversations", {"agent": agent}),
        ("list_conversations", {"after": conversation}),
        ("compact", {"conversation_id": conversation}),
        ("compact", {"conversation_id": "default", "agent": agent}),
        ("delete", {"conversation_id": conversation, "confirm": True}),
        ("describe", {"conversation_id": conversation}),
        ("describe", {"conversation_id": "default", "agent": agent}),
        ("update", {"conversation_id": conversation, "summary": "mine now"}),
        ("recompile", {"conversation_id": conversation}),
        ("recompile", {"conversation_id": "default", "agent": agent, "dry_run": True}),
        ("search_messages", {"query": "secret", "conversation_id": conversation}),
        ("search_messages", {"query": "secret", "conversation_id": "default", "agent": agent}),
        ("search_messages", {"query": "secret", "agent": agent}),
        ("search_messages", {"query": "secret", "after": conversation}),
        ("search_messages", {"query": "secret", "conversation_id": own, "after": message}),
        ("fork", {"conversation_id": conversation}),
        ("fork", {"conversation_id": own, "at_message": message}),
        ("fork", {"conversation_id": "default", "agent": agent}),
        ("send_message", {"conversation_id": conversation, "message": "hello"}),
        ("send_message", {"conversation_id": "default", "agent": agent, "message": "hello"}),
        ("send_message", {"agent": agent, "message": "hello"}),
        ("send_message", {"conversation_id": own, "agent": agent, "message": "hello"}),
        ("send_message", {"conversation_id": own, "message": "hello", "sender": conversation}),
        ("wait_for_reply", {"conversation_id": conversation}),
        ("wait_for_reply", {"conversation_id": "default", "agent": agent}),
        ("wait_for_reply", {"conversation_id": own, "run_id": run}),
        ("cancel", {"conversation_id": conversation}),
        ("cancel", {"conversation_id": "default", "agent": agent}),
        ("cancel", {"conversation_id": own, "run_id": run}),
        ("respond_to_approval", {"conversation_id": conversation, "approve": True}),
        ("respond_to_approval", {"conversation_id": "default", "agent": agent, "approve": True}),
        ("list_messages", {"conversation_id": conversation}),
        ("list_messages", {"conversation_id": "default", "agent": agent}),
        ("list_messages", {"conversation_id": own, "before": message}),
        ("list_messages", {"conversation_id": own, "after": message}),
        ("list_agents", {"after": agent}),
    ]


async def test_what_is_another_tenants_is_answered_as_what_is_not_there(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        foreign = calls(
            they.conversation, they.other_agent, they.other_conversation, they.other_run, they.other_message
        )
        nowhere = calls(they.conversation, NOWHERE_AGENT, NOWHERE, NO_RUN, NO_MESSAGE)
        swapped = {
            they.other_agent: NOWHERE_AGENT,
            they.other_conversation: NOWHERE,
            they.other_run: NO_RUN,
            they.other_message: NO_MESSAGE,
        }
        for (tool, arguments), (_, unknown) in zip(foreign, nowhere, strict=True):
            said = await they.ann.refused(tool, **arguments)
            expected = await they.ann.refused(tool, **unknown)
            for mine, theirs in swapped.items():
                said = said.replace(mine, theirs)

            assert said == expected, (tool, arguments)

    assert await letta.stored_texts(they.other_agent, they.other_conversation) == ["a secret of somebody else"]


async def test_an_agent_of_somebody_else_is_not_found_by_its_name(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        said = await they.ann.refused("send_message", agent=they.other_name, message="hello")
        close = await they.ann.refused("send_message", agent=they.other_name[:-1], message="hello")

    assert they.other_agent not in said + close
    assert "There is no agent" in said


async def test_lists_hold_only_what_is_the_callers(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        agents = await they.ann.ok("list_agents")
        everything = await they.ann.ok("list_conversations")
        resources = await they.ann.client.list_resources()
        completion = await they.ann.client.complete(
            ResourceTemplateReference(uri="letta://conversations/{conversation_id}"),
            {"name": "conversation_id", "value": "conv-"},
        )

    assert [each["id"] for each in agents.data["agents"]] == [they.agent]
    assert [each["id"] for each in everything.data["conversations"]] == [they.conversation]
    assert [each.name for each in resources.resources] == [they.conversation]
    assert completion.completion.values == [they.conversation]


@pytest.mark.parametrize("ending", ["", "/transcript", "/transcript.json", "/transcript?before=message-1"])
async def test_a_resource_of_somebody_else_is_answered_as_one_that_is_not_there(
    team: Team, letta: Letta, era: Era, ending: str
) -> None:
    async with two(team, letta, era) as they:
        with pytest.raises(MCPError) as foreign:
            await they.ann.client.read_resource(f"letta://conversations/{they.other_conversation}{ending}")
        with pytest.raises(MCPError) as nowhere:
            await they.ann.client.read_resource(f"letta://conversations/{NOWHERE}{ending}")

    assert str(foreign.value).replace(they.other_conversation, NOWHERE) == str(nowhere.value)
    assert foreign.value.error.code == nowhere.value.error.code


@pytest.mark.parametrize(
    "identifier",
    [
        "..%2F..%2Fagents",
        "../agents",
        "conv-1/../../agents/x",
        "conv-%00",
        "conv-\x00",
        "conv-\nSet-Cookie: x",
        "%2e%2e%2f",
        "default",
        "conv-00000000-0000-4000-8000-000000000000\n",
    ],
)
@pytest.mark.fake_only
async def test_an_id_that_is_none_reaches_no_address_of_letta(
    team: Team, letta: Letta, era: Era, identifier: str
) -> None:
    async with two(team, letta, era) as they:
        letta.fake.requests.clear()
        said = await they.ann.refused("list_messages", conversation_id=identifier)
        with pytest.raises(MCPError):
            await they.ann.client.read_resource(f"letta://conversations/{identifier}/transcript")
        run = await they.ann.refused("wait_for_reply", conversation_id=they.conversation, run_id=identifier)
        asked = {each.path for each in letta.fake.requests}

    assert "\n" not in said + run
    assert asked <= {f"/v1/conversations/{they.conversation}", f"/v1/conversations/{NOWHERE}"}


async def test_a_search_of_everything_is_one_of_what_is_there(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        everywhere = await they.ann.ok("search_messages", query="secret")
        mine = await they.ann.ok("search_messages", query="mine")
        asked = await they.ann.ok("ask_many", message="hello", agents=[they.agent, they.other_agent])

    assert "messages" not in everywhere.data
    assert {each["conversation_id"] for each in mine.data["messages"]} == {they.conversation}
    assert [each["status"] for each in asked.data["replies"]] == ["completed", "error"]
    assert "There is no agent" in asked.data["replies"][1]["error"]


async def test_prompts_bring_along_nothing_of_somebody_else(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        for name, arguments in (
            ("summarise_conversation", {"conversation_id": they.other_conversation}),
            ("agent_activity", {"agent": they.other_agent}),
            ("agent_activity", {"agent": they.other_name}),
        ):
            with pytest.raises(MCPError, match="There is no"):
                await they.ann.client.get_prompt(name, arguments)


async def test_a_chain_counts_across_callers_and_only_an_agent_that_the_caller_sees_is_a_sender(
    team: Team, letta: Letta, era: Era
) -> None:
    agent, _ = await letta.new_agent()
    spoken_to, _ = await letta.new_agent()
    ann, bob, everyone = team.add("ann", agents=[agent]), team.add("bob", agents=[agent, spoken_to]), team.add("carol")
    held = Hold(Say("done"))
    letta.model.enqueue(held, to="think")

    async with (
        http_server(team.settings(letta.base_url)) as url,
        client_of(url, everyone, era) as carol,
        client_of(url, ann, era) as outsider,
        client_of(url, bob, era) as insider,
    ):
        running = asyncio.create_task(carol.ok("send_message", agent=spoken_to, message="think", sender="a job, hop 3"))
        await letta.model.asked()
        apart = await outsider.refused("send_message", agent=agent, message="a question", sender=spoken_to)
        onward = await insider.ok("send_message", agent=agent, message="a question", sender=spoken_to)
        held.gate.set()
        await running

    [seen_onward] = await letta.stored_texts(agent, onward.data["conversation_id"])
    assert f"There is no agent '{spoken_to}'" in apart
    assert "[hop 5 of 5;" in seen_onward


async def test_who_may_use_some_agents_makes_none(team: Team, letta: Letta, era: Era) -> None:
    async with two(team, letta, era) as they:
        names = {tool.name for tool in (await they.ann.client.list_tools()).tools}
        said = await they.ann.refused("create_agent", name="a way out")

    assert "create_agent" not in names
    assert "no tool" in said


async def test_a_stream_tells_of_no_conversation_of_somebody_else(team: Team, letta: Letta) -> None:
    async with two(team, letta, "modern") as they:
        own, other = (transcript_of(each) for each in (they.conversation, they.other_conversation))
        async with they.ann.client.listen(resource_subscriptions=[other, own]) as stream:
            honored = stream.honored.resource_subscriptions

    assert honored == [own]


async def test_nobody_subscribes_to_a_conversation_of_somebody_else(team: Team, letta: Letta) -> None:
    async with two(team, letta, "legacy") as they:
        params = SubscribeRequestParams(uri=transcript_of(they.other_conversation))
        with pytest.raises(MCPError, match=f"There is no conversation {they.other_conversation}") as refused:
            await they.ann.client.session.send_request(SubscribeRequest(params=params), EmptyResult)

    assert refused.value.error.code == INVALID_PARAMS


async def test_a_task_of_somebody_else_is_answered_as_one_whose_conversation_is_not_there(
    team: Team, letta: Letta
) -> None:
    """Its id is a secret, and opens nothing to those who may not see its conversation."""
    held = Hold(Say("a secret of somebody else"))
    letta.model.enqueue(held)
    mine, theirs = [(await letta.new_agent())[0] for _ in range(2)]
    team.add("ann", agents=[mine])
    team.add("bob", agents=[theirs])
    arguments = {"agent": theirs, "message": "hello"}
    async with http_server(team.settings(letta.base_url)) as url:

        async def ask(who: str, method: str, params: dict[str, Any], name: str = "") -> dict[str, Any]:
            body, headers = modern_call(method, params, name)
            capabilities = body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
            capabilities["extensions"] = {IDENTIFIER: {}}
            async with http_client() as http:
                answer = await http.post(f"{url}/mcp", json=body, headers=headers | team.bearer(who))
            lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
            return json.loads(lines[-1].removeprefix("data: ") if lines else answer.text)

        made = await ask("bob", "tools/call", {"name": "send_message", "arguments": arguments}, "send_message")
        task = {"taskId": made["result"]["taskId"]}
        methods = ("tasks/get", "tasks/cancel", "tasks/update")
        refusals = [await ask("ann", method, task | {"inputResponses": {}}) for method in methods]
        before = await ask("bob", "tasks/get", task)
        held.gate.set()
        status = before["result"]["status"]
        with anyio.fail_after(HANG_SECONDS):
            while status == "working":
                status = (await ask("bob", "tasks/get", task))["result"]["status"]

    [conversation] = await letta.request("GET", "/v1/conversations/", params={"agent_id": theirs})
    assert {each["error"]["message"] for each in refusals} == {str(NotFound.conversation(conversation["id"]))}
    # Not cancelled by somebody else either.
    assert (before["result"]["status"], status) == ("working", "completed")


async def test_callers_with_no_agent_at_all_see_nothing(team: Team, letta: Letta, era: Era) -> None:
    await letta.new_conversation((await letta.new_agent())[0])
    token = team.add("nobody", agents=[])
    async with http_server(team.settings(letta.base_url)) as url, client_of(url, token, era) as nobody:
        agents = await nobody.ok("list_agents")
        conversations = await nobody.ok("list_conversations")

    assert "agents" not in agents.data
    assert "conversations" not in conversations.data
