"""Tasks and subscriptions, with agents on this machine."""

from __future__ import annotations

from pydantic import SecretStr

from letta_conversations_mcp.settings import Settings
from tests.backends.app_server.conftest import MODEL, unique
from tests.rig.model import Hold, Say, ScriptedModel
from tests.rig.servers import Way
from tests.rig.subscriber import subscriber
from tests.rig.task_client import task_client


async def test_a_reply_that_takes_long_is_fetched_by_its_task_in_another_process(
    local_settings: Settings, model: ScriptedModel
) -> None:
    held = Hold(Say("at last"))
    model.enqueue(held)

    # Without a secret that both have, a process cannot read the id of another one's task.
    shared = local_settings.model_copy(update={"request_state_keys": (SecretStr("k" * 32),)})

    async with task_client(shared) as client, task_client(shared, "stdio") as replica:
        created = await client.call("create_agent", name=unique("slow one"), model=MODEL)
        task_id = await client.task(
            "send_message", agent=created["structuredContent"]["agent_id"], message="take your time"
        )
        working = await replica.get(task_id)
        held.gate.set()
        ended = [await client.end(task_id), await replica.end(task_id)]

    assert working["status"] == "working"
    assert [each["result"]["structuredContent"]["reply"] for each in ended] == ["at last", "at last"]


async def test_a_subscriber_is_told_of_what_others_say_to_an_agent_of_this_machine(
    local_settings: Settings, model: ScriptedModel
) -> None:
    often = local_settings.model_copy(update={"watch_interval": 0.2})

    async with subscriber(Way("memory", "modern"), often) as client, task_client(local_settings) as other:
        agent = (await client.ok("create_agent", name=unique("watched"), model=MODEL)).data["agent_id"]
        opened = await client.ok("create_conversation", agent=agent)
        uri = f"letta://conversations/{opened.data['conversation_id']}/transcript"
        await client.subscribe(uri)
        await other.call("send_message", conversation_id=opened.data["conversation_id"], message="said elsewhere")
        await client.told(uri)
