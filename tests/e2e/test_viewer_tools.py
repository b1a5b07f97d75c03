"""The viewer as its clients see it: those that show MCP Apps, and those that do not."""

from __future__ import annotations

from mcp import Client
from mcp.client.extension import ClientExtension
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID

from letta_conversations_mcp.server.app import build_server
from letta_conversations_mcp.settings import Settings
from tests.rig.letta_server import Letta
from tests.rig.model import CallTools, Say, Use
from tests.rig.servers import Caller

PAGE = "ui://letta-conversations/viewer.html"


class ShowsApps(ClientExtension):
    identifier = EXTENSION_ID

    def settings(self) -> dict[str, object]:
        return {"mimeTypes": [APP_MIME_TYPE]}


def host(letta: Letta) -> Client:
    return Client(build_server(Settings(base_url=letta.base_url)), extensions=[ShowsApps()])


async def test_only_a_client_that_shows_apps_is_offered_the_viewers_own_tool(mcp: Caller, letta: Letta) -> None:
    plain = [tool.name for tool in (await mcp.client.list_tools()).tools]
    async with host(letta) as client:
        offered = {tool.name: (tool.meta or {}).get("ui") for tool in (await client.list_tools()).tools}

    assert "view_messages" not in plain
    assert offered["show_conversation"] == {"resourceUri": PAGE, "visibility": ["model", "app"]}
    assert offered["view_messages"] == {"resourceUri": PAGE, "visibility": ["app"]}
    assert offered["send_message"] is None


async def test_the_page_is_one_file_that_refers_to_no_other(mcp: Caller) -> None:
    [page] = (await mcp.client.read_resource(PAGE)).contents
    text = getattr(page, "text", "")

    assert page.mime_type == APP_MIME_TYPE
    assert text.startswith("<!doctype html>")
    assert len(text.encode()) < 150_000
    assert "<script src" not in text
    assert "import(" not in text


async def test_a_client_without_apps_gets_the_newest_messages_as_text(mcp: Caller, letta: Letta) -> None:
    agent_id, name = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "invoice 4711")
    await letta.send(conversation_id, "When is it due?")

    answer = await mcp.ok("show_conversation", conversation_id=conversation_id)

    assert "echo: When is it due?" in answer.text
    assert "shows no viewer" in answer.text
    assert answer.data == {"conversation_id": conversation_id, "agent_id": agent_id}
    assert name in answer.text


async def test_a_client_with_apps_gets_no_transcript_because_the_user_sees_it(letta: Letta) -> None:
    agent_id, _ = await letta.new_agent()
    conversation_id = await letta.new_conversation(agent_id, "invoice 4711")
    await letta.send(conversation_id, "When is it due?")
    async with host(letta) as client:
        answer = await Caller(client).ok("show_conversation", conversation_id=conversation_id)

    assert "The user sees it now" in answer.text
    assert "When is it due?" not in answer.text


async def test_the_viewer_reads_messages_in_full_and_in_their_parts(mcp: Caller, letta: Letta) -> None:
    agent_id, _ = await letta.new_agent(needs_approval="memory_insert")
    conversation_id = await letta.new_conversation(agent_id)
    long = "a long one " * 5_000
    letta.model.enqueue(Say(long, reasoning="hm"), CallTools((Use("memory_insert", {"label": "human"}),)))
    await letta.send(conversation_id, "talk")
    await letta.send(conversation_id, "note it")

    page = (await mcp.ok("view_messages", conversation_id=conversation_id)).data
    older = (await mcp.ok("view_messages", conversation_id=conversation_id, before=page["messages"][-1]["id"])).data

    assert long in [each.get("text", "") for each in page["messages"]]
    assert [each["kind"] for each in page["messages"]][:3] == ["user", "reasoning", "assistant"]
    assert [(each["name"], each["arguments"]) for each in page["approvals"]] == [
        ("memory_insert", '{"label": "human"}')
    ]
    assert "approvals" not in older
    assert page["messages"][-1]["id"] not in [each["id"] for each in older["messages"]]
