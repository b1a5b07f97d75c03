"""The demonstrations of Letta's conversation skill, told through our tools: each is run on every kind of server.

Basic flow, isolation, list and retrieve, pagination. (How memory is shared differs between the servers, and so do those
tests.)
"""

from __future__ import annotations

from tests.rig.model import Say, ScriptedModel
from tests.rig.servers import Caller


async def basic_flow(mcp: Caller, model: ScriptedModel, agent: str) -> None:
    """Open a conversation, talk in it, and see that it remembers."""
    model.enqueue(Say("Hello Bob!"), Say("Your name is Bob."))
    created = await mcp.ok("create_conversation", agent=agent, summary="basic flow")
    place = {"conversation_id": created.data["conversation_id"]}

    greeted = await mcp.ok("send_message", **place, message="My name is Bob.")
    recalled = await mcp.ok("send_message", **place, message="What is my name?")

    assert (greeted.data["status"], greeted.data["reply"]) == ("completed", "Hello Bob!")
    assert recalled.data["reply"] == "Your name is Bob."
    assert [text for _, text in model.calls[-1].messages if "My name is Bob." in text]


async def isolation(mcp: Caller, model: ScriptedModel, agent: str) -> None:
    """What is said in one conversation is not seen in another, at the same time."""
    rooms = [(await mcp.ok("create_conversation", agent=agent)).data["conversation_id"] for _ in range(2)]

    await mcp.ok("send_message", conversation_id=rooms[0], message="The code is 1111.")
    await mcp.ok("send_message", conversation_id=rooms[1], message="The code is 2222.")
    await mcp.ok("send_message", conversation_id=rooms[0], message="What is the code?")

    asked = str(model.calls[-1].messages)
    assert "1111" in asked
    assert "2222" not in asked


async def list_and_retrieve(mcp: Caller, model: ScriptedModel, agent: str) -> None:
    """The conversations of an agent are listed, found by their summary, and looked at one by one."""
    made = {
        summary: (await mcp.ok("create_conversation", agent=agent, summary=summary)).data["conversation_id"]
        for summary in ("alpha", "beta", "gamma")
    }

    listed = await mcp.ok("list_conversations", agent=agent)
    found = await mcp.ok("list_conversations", agent=agent, search="bet")
    described = await mcp.ok("describe", conversation_id=made["gamma"])

    assert {row["id"]: row["summary"] for row in listed.data["conversations"]} == {
        conversation_id: summary for summary, conversation_id in made.items()
    }
    assert [row["id"] for row in found.data["conversations"]] == [made["beta"]]
    assert described.data["summary"] == "gamma"


async def pagination(mcp: Caller, model: ScriptedModel, agent: str) -> None:
    """A history is read page by page, backwards and forwards, and every message is seen once."""
    model.enqueue(*(Say(f"answer {number}") for number in range(6)))
    first = await mcp.ok("send_message", agent=agent, message="message 0")
    place = {"conversation_id": first.data["conversation_id"]}
    for number in range(1, 6):
        await mcp.ok("send_message", **place, message=f"message {number}")
    expected = [text for number in range(6) for text in (f"message {number}", f"answer {number}")]

    backwards: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await mcp.ok("list_messages", **place, limit=4, kinds=["user", "assistant"], **cursor)
        backwards = [each["text"] for each in page.data.get("messages", [])] + backwards
        if not page.data.get("older"):
            break
        cursor = {"before": page.data["older"]}
    forwards: list[str] = []
    cursor = {"order": "asc"}
    while True:
        page = await mcp.ok("list_messages", **place, limit=4, kinds=["user", "assistant"], **cursor)
        forwards += [each["text"] for each in page.data.get("messages", [])]
        if not page.data.get("newer"):
            break
        cursor = {"after": page.data["newer"], "order": "asc"}

    assert backwards == expected
    assert forwards == expected


DEMONSTRATIONS = (basic_flow, isolation, list_and_retrieve, pagination)
