"""Being told that a conversation, or the list of them, has changed: in both eras, over every transport."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import anyio
import pytest
from mcp import MCPError

from letta_conversations_mcp.settings import Settings
from tests.rig.bounds import HANG_SECONDS
from tests.rig.fake_letta import RecordedRequest
from tests.rig.letta_server import Letta
from tests.rig.model import Hold, Say
from tests.rig.servers import ERAS, Caller, Era, Way, http_server
from tests.rig.subscriber import LIST, subscriber

pytestmark = pytest.mark.all_ways

NEVER = 3600
QUICKLY = 0.05


def settings(letta: Letta, every: float = NEVER) -> Settings:
    return Settings(base_url=letta.base_url, watch_interval=every)


def conversation(conversation_id: str) -> str:
    return f"letta://conversations/{conversation_id}"


def transcript(conversation_id: str) -> str:
    return f"letta://conversations/{conversation_id}/transcript"


async def test_a_subscriber_is_told_of_the_turns_of_this_server(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    uris = [conversation(conversation_id), transcript(conversation_id), f"{transcript(conversation_id)}.json?limit=5"]

    async with subscriber(way, settings(letta)) as client:
        await client.subscribe(*uris)
        await client.ok("send_message", conversation_id=conversation_id, message="hello")
        await client.told(*uris)


async def test_a_subscriber_is_told_when_a_turn_ends_that_outlasted_its_call(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    slow, quick = [await letta.new_conversation(agent_id) for _ in range(2)]
    hold = Hold(Say("late"))
    letta.model.enqueue(hold, to="slowly")

    async with subscriber(way, settings(letta)) as client:
        await client.subscribe(transcript(slow), transcript(quick))
        answer = await client.ok("send_message", conversation_id=slow, message="slowly", wait_seconds=0)
        await client.ok("send_message", conversation_id=quick, message="quickly")
        await client.told_anything()
        assert answer.data["status"] == "running"
        assert set(client.unread) == {transcript(quick)}
        hold.gate.set()
        await client.told(transcript(slow))


async def test_a_subscriber_is_told_of_compaction_and_deletion(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)
    for text in ("one", "two"):
        await letta.send(conversation_id, text)

    async with subscriber(way, settings(letta)) as client:
        await client.subscribe(transcript(conversation_id))
        await client.ok("compact", conversation_id=conversation_id, mode="all")
        await client.told(transcript(conversation_id))
        await client.ok("delete", conversation_id=conversation_id, confirm=True)
        await client.told(transcript(conversation_id))


async def test_a_subscriber_is_told_of_what_others_say_past_this_server(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    async with subscriber(way, settings(letta, QUICKLY)) as client:
        await client.subscribe(transcript(conversation_id))
        await letta.send(conversation_id, "said elsewhere")
        await client.told(transcript(conversation_id))


async def test_only_what_was_subscribed_to_is_told(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()
    wanted, other = [await letta.new_conversation(agent_id) for _ in range(2)]

    async with subscriber(way, settings(letta)) as client:
        await client.subscribe(transcript(wanted))
        await client.ok("send_message", conversation_id=other, message="not of interest")
        await client.ok("send_message", conversation_id=wanted, message="of interest")
        await client.told_anything()

        assert set(client.unread) == {transcript(wanted)}


async def test_the_list_is_told_of_when_a_conversation_is_opened_forked_or_deleted(letta: Letta, way: Way) -> None:
    agent_id, _ = await letta.new_agent()

    async with subscriber(way, settings(letta)) as client:
        await client.subscribe(to_list=True)
        opened = await client.ok("create_conversation", agent=agent_id)
        await client.told(LIST)
        await client.ok("fork", conversation_id=opened.data["conversation_id"])
        await client.told(LIST)
        await client.ok("delete", conversation_id=opened.data["conversation_id"], confirm=True)
        await client.told(LIST)


async def test_who_unsubscribes_is_told_no_more(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    first, second = [await letta.new_conversation(agent_id) for _ in range(2)]

    async with subscriber(Way("http", "legacy"), settings(letta)) as client:
        await client.subscribe(transcript(first), transcript(second))
        await client.unsubscribe(transcript(first))
        await client.ok("send_message", conversation_id=first, message="unheard")
        await client.ok("send_message", conversation_id=second, message="heard")
        await client.told_anything()

        assert set(client.unread) == {transcript(second)}


async def test_what_cannot_be_subscribed_to_is_refused_to_older_clients(letta: Letta) -> None:
    missing = f"conv-{uuid.uuid4()}"

    async with subscriber(Way("memory", "legacy"), settings(letta)) as client:
        for uri in (transcript(missing), "letta://conversations/default", "letta://agents/x", "file:///etc/passwd"):
            with pytest.raises(MCPError) as raised:
                await client.subscribe(uri)
            assert raised.value.error.code == -32602


async def test_a_stream_acknowledges_only_what_it_will_tell_of(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id)

    async with subscriber(Way("memory", "modern"), settings(letta)) as client:
        await client.subscribe(transcript(conversation_id), transcript(f"conv-{uuid.uuid4()}"), "letta://agents/x")

        assert client.acknowledged == [transcript(conversation_id)]

        async with client.client.listen(tools_list_changed=True, resources_list_changed=True) as stream:
            assert not stream.honored.tools_list_changed
            assert stream.honored.resources_list_changed


@pytest.mark.fake_only
@pytest.mark.parametrize("era", ERAS)
async def test_nothing_is_looked_at_for_a_client_that_has_gone(letta: Letta, era: Era) -> None:
    agent_id, _ = await letta.new_agent()
    gone, watched = [await letta.new_conversation(agent_id) for _ in range(2)]
    often = settings(letta, QUICKLY)
    way = Way("http", era)
    requests = letta.fake.requests

    def is_look_at(conversation_id: str) -> Callable[[RecordedRequest], bool]:
        return lambda each: each.path == f"/v1/conversations/{conversation_id}"

    def looks(conversation_id: str) -> int:
        return sum(map(is_look_at(conversation_id), requests))

    async with http_server(often) as url, subscriber(way, often, url) as staying:
        async with subscriber(way, often, url) as leaving:
            await leaving.subscribe(transcript(gone))
        await staying.subscribe(transcript(watched))
        with anyio.fail_after(HANG_SECONDS):
            seen = -1
            while seen != (seen := looks(gone)):
                await requests.until(is_look_at(watched), looks(watched) + 5)


async def test_clients_are_promised_what_they_are_told_of(mcp: Caller) -> None:
    capabilities = mcp.client.server_capabilities

    assert capabilities.resources is not None
    assert capabilities.resources.subscribe
    assert capabilities.resources.list_changed
    assert capabilities.tools is not None
    assert not capabilities.tools.list_changed
    assert capabilities.prompts is not None
    assert not capabilities.prompts.list_changed
